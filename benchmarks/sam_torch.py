"""torch's techniques for benchmarks/sam.py: half weights, other forms of the encoder's attention, compiled blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sam_parts import Inputs, Part
from sightline_export.graphs import SamDecoder
from sightline_export.sam_encoder import ImageEncoder
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""As `sightline_export.sam_encoder.attend`."""
Step = Callable[[], Tensor]
"""One run over a batch that is already in place -> the first output."""
Runner = Callable[[Inputs], Step]
HALF = torch.bfloat16


def folded(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, scale: float) -> Tensor:
    """The same attention without its L x L bias: the bias is a product too, of the positions with one-hot rows and columns of keys.

    [scale q, by_row, by_column] . [k, row's unit vector, column's] = scale q . k + by_row[row] + by_column[column], exactly.
    Values are padded to the same width (d + 2 w), since flash attention knows one width only; what it adds is cut off.
    """
    w, d = by_row.shape[-1], q.shape[-1]
    unit = torch.eye(w, dtype=k.dtype, device=k.device)
    places = torch.cat((unit.repeat_interleave(w, 0), unit.repeat(w, 1)), dim=1)  # [w w, 2 w]
    query = torch.cat((q * scale, by_row.flatten(2, 3), by_column.flatten(2, 3)), dim=-1)
    key = torch.cat((k, places.expand(*k.shape[:2], -1, -1)), dim=-1)
    return F.scaled_dot_product_attention(query, key, F.pad(v, (0, 2 * w)), scale=1.0)[..., :d]


def flexible(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, scale: float) -> Tensor:
    """The same attention as one generated kernel that looks the positions up for each score. Only fast when compiled."""
    w, rows, columns = by_row.shape[-1], by_row.flatten(2, 3), by_column.flatten(2, 3)  # [N, h, w w, w] each

    def add(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + rows[batch, head, query, key // w] + columns[batch, head, query, key % w]

    out = flex_attention(q, k, v, score_mod=add, scale=scale)
    assert isinstance(out, Tensor)
    return out


class HalfDecoder(nn.Module):
    """The decoder in half but for the points' encoding, as in export/precision.py: large angles have no meaning in 8 bits."""

    def __init__(self, decoder: SamDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        decoder.mask_decoder.to(HALF)
        decoder.image_pe, decoder.dense = decoder.image_pe.to(HALF), decoder.dense.to(HALF)

    def forward(self, image_embedding: Tensor, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        sparse = self.decoder.prompt_encoder(point_coords, point_labels, self.decoder.side)
        masks, ious = self.decoder.masks(image_embedding.to(HALF), sparse.to(HALF))
        return masks.float(), ious.float()


def halved(module: nn.Module) -> nn.Module:
    """bf16 weights and activations; inputs and outputs keep their types, pixels are normalised in fp32."""
    if isinstance(module, SamDecoder):
        return HalfDecoder(module)
    assert isinstance(module, ImageEncoder)
    mean, std = module.pixel_mean, module.pixel_std
    module.to(HALF)
    module.pixel_mean, module.pixel_std = mean, std
    return module


def prepare(part: Part, device: torch.device, half: bool, attend: Attend | None, compiled: bool) -> Runner:
    """The part on its device in the form asked for. Compiled is each block, not the whole: two kinds to compile, not 32."""
    module = copy.deepcopy(part.module).to(device)
    if half:
        module = halved(module)
    blocks = list(module.blocks) if isinstance(module, ImageEncoder) else [module]
    for block in blocks:
        if attend:
            block.attn.attend = attend
        if compiled:
            block.compile(fullgraph=True)  # or it would go on uncompiled, silently, after too many shapes

    def bind(inputs: Inputs) -> Step:
        tensors = [tensor.to(device) for tensor in inputs.values()]

        def step() -> Tensor:
            out = module(*tensors)
            return out[0] if isinstance(out, tuple) else out

        return step

    return bind
