"""The decoders' graphs, for every profile: inputs and outputs are named as in `ensemble/contract.py`.

B (pictures) is dynamic everywhere; so are P (prompts of a picture), N (points of a prompt) and K (`[SEG]` slots). Sides are
fixed: dynamic shapes would cost fusion.
"""

from __future__ import annotations

from torch import Tensor, nn

from .sam_decoder import MaskDecoder, PromptEncoder


class PromptedDecoder(nn.Module):
    """What both decoders share: the constants that SAM's decoder needs beside sparse prompts, and several prompts a picture."""

    def __init__(self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, grid: int, side: int) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder, self.side = prompt_encoder, mask_decoder, side
        self.register_buffer("image_pe", prompt_encoder.dense_pe(grid))
        self.register_buffer("dense", prompt_encoder.no_mask_embed.weight.detach().view(1, -1, 1, 1))

    def masks(self, image_embedding: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, G, G] and prompts [B, P, N, C] -> low_res_masks [B, P, M, M], iou_predictions [B, P]."""
        _, width, side, _ = self.image_pe.shape
        count, prompts, points = sparse.shape[:3]
        image = image_embedding.unsqueeze(1).expand(count, prompts, width, side, side).reshape(-1, width, side, side)
        masks, ious = self.mask_decoder(image, self.image_pe, sparse.reshape(-1, points, width), self.dense)
        return masks.reshape(-1, prompts, 4 * side, 4 * side), ious.reshape(-1, prompts)


class SamDecoder(PromptedDecoder):
    """image_embedding [B, 256, G, G], point_coords [B, P, N, 2], point_labels [B, P, N] -> low_res_masks [B, P, M, M], iou [B, P]."""

    def forward(self, image_embedding: Tensor, point_coords: Tensor, point_labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.masks(image_embedding, self.prompt_encoder(point_coords, point_labels, self.side))


class LisaDecoder(PromptedDecoder):
    """image_embedding [B, 256, G, G], seg_embeddings [B, K, 256] -> low_res_masks [B, K, M, M], iou_predictions [B, K]."""

    def forward(self, image_embedding: Tensor, seg_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        return self.masks(image_embedding, seg_embeddings.unsqueeze(2))
