"""The picture's own evidence: what a fine-tuned backbone reads off it, and whether it is of a sort that the weights know at all.

The fine-tuned backbone shares the frozen one's strides s4 and s8 and has its own blocks from there on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .efficientnet import CHANNELS, EfficientNetLite0

READER_STRIDES = ("s16", "top")
KNOWN_STRIDE = "s16"  # of the frozen backbone
COMPONENTS = 128
SPREAD = 2.5  # a margin's spread is so much smaller than a logit's


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


def pooled(features: dict[str, Tensor]) -> Tensor:
    """[B, 3 * 688]: mean, peak and deviation of every stride's channels."""
    found = []
    for key in CHANNELS:
        flat = features[key].flatten(2)
        mean = flat.mean(2)
        found += [mean, flat.amax(2), (flat - mean.unsqueeze(2)).square().mean(2).add(1e-8).sqrt()]
    return torch.cat(found, dim=1)


class KernelReader(nn.Module):
    """A support vector machine with a Gaussian kernel over principal components of the frozen pyramid: margin [B], above 0 defective."""

    def __init__(self, vectors: int, width: int = COMPONENTS) -> None:
        super().__init__()
        channels = 3 * sum(CHANNELS.values())
        for name, shape in (("mean", channels), ("axes", (channels, width)), ("vectors", (vectors, width)), ("weights", vectors)):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("gamma", torch.zeros(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        x = (pooled(features) - self.mean) @ self.axes
        distance = (x.unsqueeze(1) - self.vectors).square().sum(2)  # [B, vectors]
        return torch.exp(-self.gamma * distance) @ self.weights + self.bias


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
    """Frozen pyramid -> picture_evidence [B, 2]: both readers' evidence, and how foreign the picture is (above 1: not known)."""

    def __init__(self, tuned: EfficientNetLite0, reader: PictureReader, kernel: KernelReader, foreign: Foreign) -> None:
        super().__init__()
        self.tuned, self.reader, self.kernel, self.foreign = tuned, reader, kernel, foreign

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        tuned = self.tuned.later({key: features[key] for key in ("s4", "s8")})
        return torch.stack((self.reader(tuned) + SPREAD * self.kernel(features), self.foreign(features)), dim=1)
