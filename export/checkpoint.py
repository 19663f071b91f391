"""Reads a released SAM checkpoint (`sam_vit_b_01ec64.pth` and its like) without trusting it."""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .sam_decoder import MaskDecoder, PromptEncoder
from .sam_encoder import SIZES, ImageEncoder, SamSize

_UNUSED = "prompt_encoder.mask_downscaling."  # mask prompts: nothing here gives one


class CheckpointError(RuntimeError):
    """A file that is not the checkpoint it should be; one line names the file and what was expected."""


@dataclass(frozen=True)
class Sam:
    """The three parts of a checkpoint, float32, in evaluation mode."""

    size: SamSize
    encoder: ImageEncoder
    prompts: PromptEncoder
    decoder: MaskDecoder


def load_sam(path: Path, model: str) -> Sam:
    """The checkpoint at `path`, which must be a SAM of the size `model` (vit_b, vit_l, vit_h).

    Raises:
        CheckpointError: missing, truncated, holding more than tensors, another model or another size, or with weights that are not finite.
    """
    state = read_state(path)
    size = _checked_size(path, state, model)
    with torch.device("meta"):  # no memory for weights that are replaced at once
        encoder = ImageEncoder(size)
        prompts, decoder = PromptEncoder(size.out), MaskDecoder(size.out)
    for prefix, module in (("image_encoder.", encoder), ("prompt_encoder.", prompts), ("mask_decoder.", decoder)):
        fill(path, module, prefix, state)
    if unknown := next((key for key in state if not key.startswith(("image_encoder.", "prompt_encoder.", "mask_decoder."))), None):
        raise CheckpointError(
            f"{path.name}: unknown tensor '{unknown}'; expected the image_encoder, prompt_encoder and mask_decoder of SAM"
        )
    return Sam(size, encoder.eval(), prompts.eval(), decoder.eval())


def read_state(path: Path) -> dict[str, Tensor]:
    """Name -> tensor, float32, memory-mapped where the file allows; CheckpointError where it is anything else."""
    state = unpickled(path, "a SAM checkpoint (.pth)")
    return {key: value.float() for key, value in state.items() if not key.startswith(_UNUSED)}


def unpickled(path: Path, expected: str) -> dict[str, Tensor]:
    """A pickled dictionary of tensors, memory-mapped where the file allows; CheckpointError where it is anything else."""
    if not path.is_file():
        raise CheckpointError(f"{path.name}: no such file; expected {expected}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its remarks on a foreign file's pickle protocol
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if _is_pickle(path) and ("Unsupported" in str(error) or "Weights only" in str(error)):
            raise CheckpointError(f"{path.name}: holds more than tensors; refused, and nothing in it was run") from None
        raise CheckpointError(f"{path.name}: truncated or no PyTorch file; expected {expected}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, IndexError):
        raise CheckpointError(f"{path.name}: truncated or no PyTorch file; expected {expected}") from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path.name}: not a plain dictionary of tensors; expected {expected}")
    return state


def _is_pickle(path: Path) -> bool:
    """Whether it reads as one, without running anything: of garbage torch.load says the same as of a pickle with code."""
    if zipfile.is_zipfile(path):
        return True
    try:
        with path.open("rb") as file:
            return all(opcode is not None for opcode, _, _ in pickletools.genops(file))
    except (ValueError, IndexError, OverflowError):
        return False


def _checked_size(path: Path, state: dict[str, Tensor], model: str) -> SamSize:
    """The size called `model`, after the tensors' own shapes agree with it."""
    expected = SIZES[model]
    position, relative = state.get("image_encoder.pos_embed"), state.get("image_encoder.blocks.0.attn.rel_pos_h")
    if position is None or relative is None or position.dim() != 4 or relative.dim() != 2:
        raise CheckpointError(f"{path.name}: no SAM checkpoint: it has no image_encoder with relative positions; expected {model}")
    width, depth = position.shape[-1], _depth(state)
    heads = width // relative.shape[1] if relative.shape[1] else 0
    if (width, depth, heads) != (expected.width, expected.depth, expected.heads):
        found = f"width {width}, {depth} blocks, {heads} heads"
        name = next((s.name for s in SIZES.values() if (s.width, s.depth, s.heads) == (width, depth, heads)), None)
        wanted = f"{model} (width {expected.width}, {expected.depth} blocks, {expected.heads} heads)"
        raise CheckpointError(f"{path.name}: is {name or 'no released SAM'} ({found}), expected {wanted}")
    return expected


def _depth(state: dict[str, Tensor]) -> int:
    numbers = [key.split(".")[2] for key in state if key.startswith("image_encoder.blocks.")]
    return 1 + max((int(n) for n in numbers if n.isdigit()), default=-1)


def fill(path: Path, module: nn.Module, prefix: str, state: dict[str, Tensor]) -> None:
    """Give a module on the meta device the tensors under a prefix: all of them, of the right shapes, and finite."""
    expected = module.state_dict()
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if missing := sorted(set(expected) - set(found)):
        raise CheckpointError(f"{path.name}: tensor '{prefix}{missing[0]}' is missing ({len(missing)} in all); expected a complete SAM")
    if unknown := sorted(set(found) - set(expected)):
        raise CheckpointError(f"{path.name}: unknown tensor '{prefix}{unknown[0]}'; expected a SAM as released")
    for key, value in found.items():
        if value.shape != expected[key].shape:
            shapes = f"{list(value.shape)}, expected {list(expected[key].shape)}"
            raise CheckpointError(f"{path.name}: tensor '{prefix}{key}' has the shape {shapes}")
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path.name}: tensor '{prefix}{key}' holds NaN or infinity")
    module.load_state_dict(found, assign=True)
    module.requires_grad_(False)
