"""The SAM inside a LISA checkpoint: its image encoder is the released one, frozen; its mask decoder is LISA's own."""

from __future__ import annotations

import torch

from .checkpoint import CheckpointError, Sam, fill
from .sam_decoder import MaskDecoder, PromptEncoder
from .sam_encoder import SIZES, ImageEncoder, SamSize
from .shards import Shards

PREFIX = "model.visual_model."
PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
_UNUSED = "prompt_encoder.mask_downscaling."  # mask prompts: nothing here gives one


def inner_sam(shards: Shards) -> Sam:
    """The three parts, float32, in evaluation mode; CheckpointError where one is missing, damaged or of an unknown shape."""
    size = inner_size(shards)
    with torch.device("meta"):  # no memory for weights that are replaced at once
        encoder = ImageEncoder(size)
        prompts, decoder = PromptEncoder(size.out), MaskDecoder(size.out)
    for part, module in zip(PARTS, (encoder, prompts, decoder), strict=True):
        names = [name for name in shards.names(PREFIX + part) if not name.startswith(PREFIX + _UNUSED)]
        state = {name.removeprefix(PREFIX): shards.tensor(name).float() for name in names}
        fill(shards.folder, module, part, state)
    return Sam(size, encoder.eval(), prompts.eval(), decoder.eval())


def inner_size(shards: Shards) -> SamSize:
    """All of it from the tensors: config.json says nothing. A block is global where its relative positions span the grid."""

    def shape(name: str, sides: int) -> torch.Size:
        return shards.tensor(f"{PREFIX}image_encoder.{name}", (None,) * sides).shape

    _, grid, _, width = shape("pos_embed", 4)
    patch, out = shape("patch_embed.proj.weight", 4)[-1], shape("neck.0.weight", 4)[0]
    numbers = [name.removeprefix(f"{PREFIX}image_encoder.blocks.").split(".")[0] for name in shards.names(f"{PREFIX}image_encoder.blocks.")]
    depth = 1 + max((int(n) for n in numbers if n.isdigit()), default=-1)
    tables = [shape(f"blocks.{i}.attn.rel_pos_h", 2) for i in range(depth)]
    reach = [(rows + 1) // 2 for rows, _ in tables]
    windows = {side for side in reach if side != grid}
    if not depth or len(windows) > 1 or len({side for _, side in tables}) > 1 or width % tables[0][1]:
        raise CheckpointError(f"{shards.folder.name}: '{PREFIX}image_encoder' is no SAM: windows {sorted(windows)}, {depth} blocks")
    whole = tuple(i for i, side in enumerate(reach) if side == grid)
    heads = width // tables[0][1]
    name = next((s.name for s in SIZES.values() if (s.width, s.depth, s.heads) == (width, depth, heads)), f"vit_{width}x{depth}")
    return SamSize(name, width, depth, heads, whole, grid * patch, patch, windows.pop() if windows else grid, out)


def same_encoder(inner: Sam, released: Sam) -> str | None:
    """None where LISA's image encoder is the released one, up to one rounding to bfloat16; else the first tensor that differs."""
    theirs = released.encoder.state_dict()
    for name, value in inner.encoder.state_dict().items():
        other = theirs[name]
        if not (torch.equal(value, other) or torch.equal(value, other.bfloat16().float())):
            return name
    return None
