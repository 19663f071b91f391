"""What benchmarks/sam.py measures: SAM's encoder of each size and its decoder, with random weights, their inputs and their work.

No checkpoint is needed: time does not depend on the weights' values, as long as they are not zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sightline_export.graphs import SamDecoder
from sightline_export.sam_decoder import MaskDecoder, PromptEncoder
from sightline_export.sam_encoder import ImageEncoder, SamSize
from torch import Tensor, nn

PROMPTS, POINTS = 1, 2  # of each picture: one box, its two corners
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One thing to measure. `flops`: of one picture; `scores`: entries of the largest attention's matrix, all heads, one picture."""

    name: str
    model: str
    module: nn.Module
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]
    flops: int
    scores: int
    picture: Callable[[int], Inputs]

    def inputs(self, batch: int) -> Inputs:
        """`batch` pictures on the CPU; the same number always names the same picture."""
        pictures = [self.picture(number) for number in range(batch)]
        return {name: torch.stack([one[name] for one in pictures]) for name in pictures[0]}


def encoder(size: SamSize) -> Part:
    """sam_pixels uint8 [B, 3, S, S], resized_size int32 [B, 2] -> image_embedding [B, 256, G, G]."""
    torch.manual_seed(0)
    module = ImageEncoder(size).eval()
    for name, parameter in module.named_parameters():
        if "pos" in name:
            nn.init.normal_(parameter, std=0.1)
    side = size.image_size

    def picture(number: int) -> Inputs:
        pixels = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        return {"sam_pixels": pixels, "resized_size": torch.tensor([side, side], dtype=torch.int32)}

    return Part("encoder", size.name, module, ("image_embedding",), {}, 2 * size.macs, size.heads * size.grid**4, picture)


def decoder(size: SamSize) -> Part:
    """image_embedding [B, 256, G, G] and one box each -> low_res_masks [B, 1, M, M]; the same for every size of the encoder."""
    torch.manual_seed(0)
    width = MaskDecoder().iou_token.embedding_dim
    module = SamDecoder(PromptEncoder(), MaskDecoder(), size.grid, size.image_size).eval()
    box = torch.tensor([[0.2, 0.3], [0.7, 0.8]]) * size.image_size

    def picture(number: int) -> Inputs:
        embedding = torch.randn(width, size.grid, size.grid, generator=torch.Generator().manual_seed(number))
        return {"image_embedding": embedding, "point_coords": box.expand(PROMPTS, -1, -1), "point_labels": torch.tensor([[2.0, 3.0]])}

    axes = {1: "prompts", 2: "points"}
    dynamic = {"point_coords": axes, "point_labels": axes}
    flops = 2 * decoder_macs(size.grid, PROMPTS, POINTS)
    return Part("decoder", "all sizes", module, ("low_res_masks", "iou_predictions"), dynamic, flops, 0, picture)


PARTS: dict[str, Callable[[SamSize], Part]] = {"encoder": encoder, "decoder": decoder}


def decoder_macs(grid: int, prompts: int, points: int, width: int = 256, hidden: int = 2048, masks: int = 4) -> int:
    """Multiply-accumulates of one picture as export/sam_decoder.py computes them: matrix products and convolutions.

    With n tokens (iou, `masks` mask tokens, the points), p = G G picture tokens and C = width; the cross attentions work in C / 2.
    """
    n, p, c, inner = 1 + masks + points, grid * grid, width, width // 2
    to_self = 4 * n * c * c + 2 * n * n * c
    cross = 2 * n * c * inner + 2 * p * c * inner + 2 * n * p * inner  # either way round: two of q, k, v, out are the picture's
    block = to_self + 2 * cross + 2 * n * c * hidden
    upscaling = 4 * p * c * (c // 4) + 16 * p * (c // 4) * (c // 8)
    heads = 2 * c * c + c * (c // 8) + 2 * c * c + c * masks  # one mask token's network, the quality's
    mask = 16 * p * (c // 8)
    return prompts * (points * c + 2 * block + cross + upscaling + heads + mask)
