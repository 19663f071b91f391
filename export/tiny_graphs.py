"""The four ONNX graphs of the tiny profile: inputs and outputs named as in `ensemble/contract.py`.

B is dynamic everywhere; so are N (prompt points) and K (`[SEG]` slots). Sides are fixed: dynamic shapes would cost fusion.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from .efficientnet import EfficientNetLite0
from .sam_decoder import MaskDecoder, PromptEncoder
from .tiny_vision import SamNeck, TokenNeck, patch_features

OPSET = 17


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


class PromptedDecoder(nn.Module):
    """What both decoders share: the constants that SAM's decoder needs beside a sparse prompt."""

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, grid: int, side: int) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder, self.side = prompt_encoder, mask_decoder, side
        self.register_buffer("image_pe", prompt_encoder.dense_pe(grid))
        self.register_buffer("dense", prompt_encoder.no_mask_embed.weight.detach().view(1, -1, 1, 1))


class SamDecoder(PromptedDecoder):
    """image_embedding [B, 256, G, G], point_coords [B, N, 2], point_labels [B, N] -> low_res_masks [B, 1, M, M], iou [B, 1]."""

    def forward(self, image_embedding: Tensor, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        sparse = self.prompt_encoder(point_coords, point_labels, self.side)
        return self.mask_decoder(image_embedding, self.image_pe, sparse, self.dense)


class LisaDecoder(PromptedDecoder):
    """image_embedding [B, 256, G, G], seg_embeddings [B, K, 256] -> low_res_masks [B, K, M, M], iou_predictions [B, K]."""

    def forward(self, image_embedding: Tensor, seg_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        slots = seg_embeddings.shape[1]
        repeated = image_embedding.unsqueeze(1).expand(-1, slots, -1, -1, -1).flatten(0, 1)
        masks, ious = self.mask_decoder(repeated, self.image_pe, seg_embeddings.flatten(0, 1).unsqueeze(1), self.dense)
        return masks.unflatten(0, (-1, slots)).squeeze(2), ious.unflatten(0, (-1, slots)).squeeze(2)


class VisionEncoder(nn.Module):
    """vision_pixels uint8 [B, 3, V, V] -> image_features [B, T, C], patch_features [B, P, D]."""

    def __init__(self, backbone: EfficientNetLite0, neck: TokenNeck) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, vision_pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(vision_pixels.float())
        return self.neck(features)[0], patch_features(features)


def write_onnx(
    module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path, dynamic: dict[str, dict[int, str]]
) -> None:
    """Export with a dynamic batch; `dynamic` names further axes by tensor."""
    axes = {name: {0: "batch", **dynamic.get(name, {})} for name in (*inputs, *outputs)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        torch.onnx.export(
            module.eval(), tuple(inputs.values()), str(path), input_names=list(inputs), output_names=list(outputs),
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
