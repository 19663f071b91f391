"""The trained parts of the tiny profile's two encoders: what sits on the frozen EfficientNet-Lite0.

`SamNeck` makes SAM's `image_embedding`; `TokenNeck` makes LISA's picture tokens. Both read the pyramid of
`EfficientNetLite0.forward`, each channel standardised with the training set's mean and deviation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import CHANNELS
from .sam_decoder import LayerNorm2d

SAM_STRIDES = ("s4", "s8", "s16", "s32")
TOKEN_STRIDES = ("s4", "s8", "s16", "s32", "top")
EXPERT_STRIDES = ("s8", "s16")
CELLS = 3  # picture tokens lie on a 3 x 3 grid: one for each place that an answer can name
GLOBAL_TOKENS = 3
TOKEN_WIDTH = 256
KINDS = 3  # crack, inactive area, finger interruption


class Standardise(nn.Module):
    """(x - mean) / std by channel; identity until `mean` and `std` are filled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def standardisers(strides: tuple[str, ...]) -> nn.ModuleDict:
    return nn.ModuleDict({stride: Standardise(CHANNELS[stride]) for stride in strides})


class SamNeck(nn.Module):
    """Pyramid of an S x S picture -> image_embedding [B, 256, S/16, S/16].

    Finer strides are folded into channels (pixel unshuffle), so that a crack two pixels wide still reaches the decoder.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.standardise = standardisers(SAM_STRIDES)
        channels = CHANNELS["s4"] * 16 + CHANNELS["s8"] * 4 + CHANNELS["s16"] + CHANNELS["s32"]
        self.mix = nn.Conv2d(channels, width, 1)
        self.norm1 = LayerNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = LayerNorm2d(width)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        x = {key: norm(features[key]) for key, norm in self.standardise.items()}
        coarse = F.interpolate(x["s32"], scale_factor=2.0, mode="nearest")
        folded = torch.cat((F.pixel_unshuffle(x["s4"], 4), F.pixel_unshuffle(x["s8"], 2), x["s16"], coarse), dim=1)
        y = self.norm1(self.mix(folded))  # [B, 256, G, G]
        return self.norm2(y + self.conv(F.gelu(y)))


class TokenNeck(nn.Module):
    """Pyramid of a V x V picture (V = 256) -> picture tokens [B, 12, 256]: nine places, then three of the whole.

    A small map of defects (by kind) is read out on the way; the tokens carry its peaks by place, so the language model
    finds kind and place in them without looking far.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.standardise = standardisers(TOKEN_STRIDES)
        self.lateral = nn.ModuleDict({key: nn.Conv2d(CHANNELS[key], width, 1) for key in TOKEN_STRIDES})
        self.fuse1 = nn.Conv2d(width, width, 3, padding=1)
        self.fuse2 = nn.Conv2d(width, width, 3, padding=1)
        self.map_head = nn.Conv2d(width, 1 + KINDS, 1)  # any defect, then each kind
        pooled = 3 * sum(CHANNELS[key] for key in TOKEN_STRIDES if key != "s4")
        self.dropout = nn.Dropout(0.4)
        self.whole = nn.Linear(pooled + 2 * (1 + KINDS), GLOBAL_TOKENS * TOKEN_WIDTH)
        self.place = nn.Linear(2 * width + 2 * (1 + KINDS), TOKEN_WIDTH)
        self.position = nn.Parameter(torch.zeros(CELLS * CELLS, TOKEN_WIDTH))

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns tokens [B, 12, 256] and the map's logits [B, 4, V/4, V/4]."""
        x = {key: norm(features[key]) for key, norm in self.standardise.items()}
        fine = self.lateral["s4"](x["s4"])
        for key, scale in (("s8", 2.0), ("s16", 4.0), ("s32", 8.0), ("top", 8.0)):
            fine = fine + F.interpolate(self.lateral[key](x[key]), scale_factor=scale, mode="bilinear", align_corners=False)
        fine = F.gelu(fine)
        fine = fine + F.gelu(self.fuse1(fine))
        fine = fine + F.gelu(self.fuse2(fine))  # [B, 64, 64, 64]
        logits = self.map_head(fine)  # [B, 4, 64, 64]
        return torch.cat((self.places(fine, logits), self.overall(x, logits)), dim=1), logits

    def places(self, fine: Tensor, logits: Tensor) -> Tensor:
        """[B, 9, 256]: 64 rows and columns in three overlapping windows of 22, row by row."""
        windows = [F.avg_pool2d(fine, 22, 21), F.max_pool2d(fine, 22, 21)]
        windows += [F.max_pool2d(logits, 22, 21) / 4, F.max_pool2d(F.avg_pool2d(logits, 3, 1, 1), 22, 21) / 4]
        return self.place(self.dropout(torch.cat(windows, dim=1).flatten(2).transpose(1, 2))) + self.position

    def overall(self, x: dict[str, Tensor], logits: Tensor) -> Tensor:
        """[B, 3, 256] from means, peaks and deviations of the coarser strides, and from the map's brightest points."""
        parts = [logits.flatten(2).topk(20, dim=2).values.mean(2) / 4, logits.amax((2, 3)) / 4]
        for key in TOKEN_STRIDES:
            if key != "s4":
                mean = x[key].mean((2, 3))
                parts += [mean, x[key].amax((2, 3)) / 3, (x[key] - mean[:, :, None, None]).square().mean((2, 3)).add(1e-4).sqrt()]
        tokens: Tensor = self.whole(self.dropout(torch.cat(parts, dim=1)))
        return tokens.unflatten(1, (GLOBAL_TOKENS, TOKEN_WIDTH))


def patch_features(features: dict[str, Tensor]) -> Tensor:
    """The expert's features [B, P, 40 + 112] on the s8 grid: averaged over 3 x 3, each stage of unit length.

    AnomalyGPT (arXiv 2308.15366) compares stages separately; storing them side by side keeps one tensor.
    """
    fine, coarse = (F.avg_pool2d(features[key], 3, 1, 1) for key in EXPERT_STRIDES)
    coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    stages = [F.normalize(stage.flatten(2).transpose(1, 2), dim=2) for stage in (fine, coarse)]  # [B, P, channels]
    return torch.cat(stages, dim=2)
