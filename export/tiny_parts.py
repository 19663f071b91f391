"""The tiny profile's part decoder: SAM's prompt encoder and mask decoder, and a branch that lays the prompt out on the picture.

SAM learns from eleven million pictures where a corner token points to; a few thousand drawings do not teach that. So boxes and
points are also drawn as maps, and every place is compared with what the prompt says is part (the box's middle, foreground
points) and what is not (a ring around the box, background points). Another part of the same tone looks the same to that: what
does not hang together with a foreground point is dropped at the end. Shapes: B prompts, N points, G grid side, M = 4 G.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sam_decoder import MaskDecoder, PromptEncoder

FEATURES, HIDDEN = 12, 24
REGIONS, MAPS = 4, 10
NEAR = 0.25  # of a point's map: two and a half cells
BACKGROUND, FOREGROUND, FIRST, SECOND = 0, 1, 2, 3  # labels


def span(low: Tensor, high: Tensor, centres: Tensor) -> Tensor:
    """How much of each cell, 0 to 1, lies between low and high [B, 1], in cells -> [B, M]."""
    return (high - centres + 0.5).clamp(0, 1) * (centres - low + 0.5).clamp(0, 1)


def outer(rows: Tensor, columns: Tensor) -> Tensor:
    """[B, M], [B, M] -> [B, M, M]."""
    return rows.unsqueeze(2) * columns.unsqueeze(1)


class PromptMaps(nn.Module):
    """Boxes and points as maps of M x M cells."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side  # M
        self.register_buffer("centres", torch.arange(side) + 0.5, persistent=False)

    def forward(self, coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """coords [B, N, 2] in cells, labels [B, N] -> regions [B, 4, M, M] (weights, 0 or more), maps [B, 10, M, M]."""
        is_first, is_second = (labels == FIRST).to(coords.dtype), (labels == SECOND).to(coords.dtype)
        boxed = is_first.sum(1).clamp(max=1).view(-1, 1, 1)
        low, high = (coords * is_first.unsqueeze(2)).sum(1), (coords * is_second.unsqueeze(2)).sum(1)  # [B, 2]
        size = high - low
        cover = self.box(low, high) * boxed
        middle = self.box(low + 0.2 * size, high - 0.2 * size) * boxed
        ring = (self.box(low - 0.15 * size - 2, high + 0.15 * size + 2) * boxed - cover).clamp(min=0)
        near = [self.spots(coords, labels == label, 1.5) for label in (FOREGROUND, BACKGROUND)]
        wide = [self.spots(coords, labels == label, 10.0) for label in (FOREGROUND, BACKGROUND)]
        flags = [boxed, *((labels == label).any(1).to(coords.dtype).view(-1, 1, 1) for label in (FOREGROUND, BACKGROUND))]
        maps = [cover, middle, ring, *(spot.clamp(max=1) for spot in near + wide), *(flag.expand_as(cover) for flag in flags)]
        return torch.stack([middle, ring, *near], 1), torch.stack(maps, 1)

    def box(self, low: Tensor, high: Tensor) -> Tensor:
        """[B, 2], [B, 2] (x, y) -> [B, M, M]."""
        return outer(span(low[:, 1:], high[:, 1:], self.centres), span(low[:, :1], high[:, :1], self.centres))

    def spots(self, coords: Tensor, chosen: Tensor, sigma: float) -> Tensor:
        """Gaussians around the chosen points, summed: [B, M, M]."""
        along = (-0.5 * ((coords.unsqueeze(3) - self.centres) / sigma).square()).exp()  # [B, N, 2, M]
        return (along[:, :, 1] * chosen.unsqueeze(2).to(coords.dtype)).transpose(1, 2) @ along[:, :, 0]


class Comparison(nn.Module):
    """image_embedding and a prompt's maps -> what to add to the embedding and to the mask's logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(width, FEATURES * 16, 1)
        self.mix = nn.Conv2d(FEATURES * (1 + REGIONS) + MAPS, HIDDEN, 1)
        self.known = nn.Linear(REGIONS * FEATURES * 2, HIDDEN)
        self.look = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.dense = nn.Conv2d(HIDDEN * 16, width, 1)
        self.logits = nn.Conv2d(HIDDEN, 1, 1)
        for last in (self.dense, self.logits):  # begins as SAM's decoder alone
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, embedding: Tensor, regions: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, G, G], [B, 4, M, M], [B, 10, M, M] -> dense [B, C, G, G], logits [B, 1, M, M]."""
        fine = F.pixel_shuffle(self.fine(embedding), 4).tanh()  # [B, F, M, M]
        weights = regions.flatten(2)
        weights = weights / (weights.sum(2, keepdim=True) + 1e-3)
        flat = fine.flatten(2).transpose(1, 2)  # [B, M * M, F]
        mean = weights @ flat  # [B, 4, F]
        spread = (weights @ flat.square() - mean.square()).clamp(min=0)
        apart = [(fine - mean[:, k, :, None, None]).abs() for k in range(REGIONS)]
        known = self.known(torch.cat([mean.flatten(1), spread.add(1e-4).sqrt().flatten(1)], 1))
        hidden = F.gelu(self.mix(torch.cat([fine, *apart, maps], 1)) + known[:, :, None, None])
        hidden = hidden + F.gelu(self.look(hidden))
        return self.dense(F.pixel_unshuffle(hidden, 4)), self.logits(hidden)


class PartDecoder(nn.Module):
    """The `sam_decoder` step: SAM's decoder with the comparison beside it."""

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, grid: int, side: int) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder, self.grid, self.side = prompt_encoder, mask_decoder, grid, side
        self.maps = PromptMaps(4 * grid)
        self.comparison = Comparison(prompt_encoder.no_mask_embed.weight.shape[1])

    def forward(self, image_embedding: Tensor, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        """image_embedding [B, C, G, G], point_coords [B, P, N, 2] in pixels of the S x S input, point_labels [B, P, N]
        -> low_res_masks [B, P, M, M], iou_predictions [B, P]."""
        masks, ious, seeds = self.decode(image_embedding, point_coords, point_labels)
        return hanging_together(masks.flatten(0, 1).unsqueeze(1), seeds).view_as(masks), ious

    def decode(self, image_embedding: Tensor, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is learnt: inputs as of `forward` -> its masks with every piece, iou_predictions, foreground points [B P, 1, M, M]."""
        count, prompts, points = point_labels.shape
        width, grid = image_embedding.shape[1], self.grid
        image = image_embedding.unsqueeze(1).expand(count, prompts, width, grid, grid).reshape(-1, width, grid, grid)
        coords, labels = point_coords.reshape(-1, points, 2), point_labels.reshape(-1, points)
        regions, maps = self.maps(coords * (4 * grid / self.side), labels)
        dense, extra = self.comparison(image, regions, maps)
        dense = dense + self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        sparse = self.prompt_encoder(coords, labels, self.side)
        masks, ious = self.mask_decoder(image, self.prompt_encoder.dense_pe(grid), sparse, dense)
        return (masks + extra).reshape(-1, prompts, 4 * grid, 4 * grid), ious.reshape(-1, prompts), regions[:, 2:3]


def hanging_together(masks: Tensor, seeds: Tensor) -> Tensor:
    """Logits [B, 1, M, M] with the pieces that no seed [B, 1, M, M] reaches turned negative; as they are where none reaches any.
    Pieces one cell apart count as one."""
    inside = (masks > 0).to(masks.dtype)
    reached = (seeds > NEAR).to(masks.dtype) * inside
    for _ in range(masks.shape[-1] // 2):  # two cells each: as far as the picture is wide, around a ring too
        reached = F.max_pool2d(reached, 5, 1, 2) * inside
    lost = reached.amax((2, 3), keepdim=True) == 0
    return torch.where((reached > 0) | lost, masks, -masks.abs())
