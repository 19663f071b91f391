"""The picture's own evidence: what a fine-tuned backbone reads off it, and whether it is of a sort that the weights know at all.

The fine-tuned backbone shares the frozen one's strides s4 and s8 and has its own blocks from there on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .efficientnet import CHANNELS, EfficientNetLite0

READER_STRIDES = ("s16", "top")
KNOWN_STRIDE = "s16"  # of the frozen backbone


class PictureReader(nn.Module):
    """Coarse strides of the fine-tuned pyramid -> logit [B] of "defective"."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)
        self.read = nn.Linear(2 * sum(CHANNELS[key] for key in READER_STRIDES), 1)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        pooled = [pool for key in READER_STRIDES for pool in (features[key].mean((2, 3)), features[key].amax((2, 3)) / 4)]
        found: Tensor = self.read(self.dropout(torch.cat(pooled, dim=1)))
        return found.squeeze(1)


class Foreign(nn.Module):
    """Squared Mahalanobis distance of a picture's mean features to the training pictures', 1 at the limit of what is known (Lee et
    al., arXiv 1807.03888, with one class)."""

    def __init__(self) -> None:
        super().__init__()
        width = CHANNELS[KNOWN_STRIDE]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whiten", torch.eye(width))  # of the limit's size, too

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        centred = features[KNOWN_STRIDE].mean((2, 3)) - self.mean
        return (centred @ self.whiten).square().sum(1)


class PictureWitness(nn.Module):
    """Frozen pyramid -> picture_evidence [B, 2]: the reader's logit, and how foreign the picture is (above 1: not known)."""

    def __init__(self, tuned: EfficientNetLite0, reader: PictureReader, foreign: Foreign) -> None:
        super().__init__()
        self.tuned, self.reader, self.foreign = tuned, reader, foreign

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        tuned = self.tuned.later({key: features[key] for key in ("s4", "s8")})
        return torch.stack((self.reader(tuned), self.foreign(features)), dim=1)
