"""The tiny profile's two encoders as ONNX graphs: inputs and outputs named as in `ensemble/contract.py`. Only B is dynamic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .efficientnet import EfficientNetLite0
from .tiny_vision import SamNeck, TokenNeck, patch_features
from .tiny_witness import PictureWitness


class SamEncoder(nn.Module):
    """sam_pixels uint8 [B, 3, S, S], resized_size int32 [B, 2] -> image_embedding [B, 256, G, G]."""

    def __init__(self, backbone: EfficientNetLite0, neck: SamNeck, side: int) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck
        self.register_buffer("index", torch.arange(side))

    def forward(self, sam_pixels: Tensor, resized_size: Tensor) -> Tensor:
        inside = self.index < resized_size.unsqueeze(2)  # [B, 2, S]: what lies beyond the picture is black
        window = inside[:, 0, :, None] & inside[:, 1, None, :]
        return self.neck(self.backbone(sam_pixels.float() * window.unsqueeze(1).float()))


class VisionEncoder(nn.Module):
    """vision_pixels uint8 [B, 3, V, V] -> image_features [B, T, C], patch_features [B, P, D], picture_evidence [B, 2]."""

    def __init__(self, backbone: EfficientNetLite0, neck: TokenNeck, witness: PictureWitness) -> None:
        super().__init__()
        self.backbone, self.neck, self.witness = backbone, neck, witness

    def forward(self, vision_pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.backbone(vision_pixels.float())
        return self.neck(features)[0], patch_features(features), self.witness(features)
