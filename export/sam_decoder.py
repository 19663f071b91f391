"""SAM's prompt encoder and mask decoder for export: attribute names are the official checkpoints', so those load as they are.

Kirillov et al., "Segment Anything" (arXiv 2304.02643); equality with Meta's package is what tests/unit/test_sam_decoder.py proves.
Shapes: B pictures, N sparse prompt tokens, G grid side, M = 4 G.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of [B, C, H, W], eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, width_in: int, hidden: int, width_out: int, depth: int) -> None:
        super().__init__()
        widths = [width_in, *[hidden] * (depth - 1), width_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Attention(nn.Module):
    """Multi-head attention that may work in a smaller width inside."""

    def __init__(self, width: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = width // downsample
        self.heads, self.head_width = heads, inner // heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, Nq, C], [B, Nk, C], [B, Nk, C] -> [B, Nq, C]."""
        queries, keys, scale = q.shape[1], k.shape[1], self.head_width**-0.5
        q, k, v = self.split(self.q_proj(q), queries), self.split(self.k_proj(k), keys), self.split(self.v_proj(v), keys)
        if torch.onnx.is_in_onnx_export():  # the pattern that engines fuse; the exporter's own would scale q and k each
            out = torch.softmax((q * scale) @ k.transpose(-2, -1), dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return self.out_proj(out.transpose(1, 2).reshape(-1, queries, self.heads * self.head_width))

    def split(self, x: Tensor, length: int) -> Tensor:
        """[B, N, h d] -> [B, h, N, d]; the batch is the one -1, so that the graph computes no shape but N."""
        return x.reshape(-1, length, self.heads, self.head_width).transpose(1, 2)


class MlpBlock(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Tokens look at themselves, at the picture, think, and the picture looks back at them."""

    def __init__(self, width: int, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.cross_attn_token_to_image = Attention(width, heads, 2)
        self.mlp = MlpBlock(width, hidden)
        self.cross_attn_image_to_token = Attention(width, heads, 2)
        self.first = first  # the first block has no position to add yet: the queries are the positions

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, N, C], image [B, G*G, C] and their positional encodings -> the same, updated."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        keys = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, keys, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(keys, tokens + token_pe, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    def __init__(self, depth: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, heads, hidden, i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(width, heads, 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """image [B, C, G, G], image_pe [1, C, G, G], tokens [B, N, C] -> tokens [B, N, C], image [B, G*G, C]."""
        image, image_pe = image.flatten(2).transpose(1, 2), image_pe.flatten(2).transpose(1, 2)
        updated = tokens
        for layer in self.layers:
            updated, image = layer(updated, image, tokens, image_pe)
        attended = self.final_attn_token_to_image(updated + tokens, image + image_pe, image)
        return self.norm_final_attn(updated + attended), image


class MaskDecoder(nn.Module):
    """image_embedding and sparse prompts -> the single mask's logits and SAM's own estimate of its quality."""

    def __init__(self, width: int = 256, hidden: int = 2048, masks: int = 4, iou_hidden: int = 256) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(2, width, 8, hidden)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(masks, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2), LayerNorm2d(width // 4), nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2), nn.GELU(),
        )  # fmt: skip
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8, 3) for _ in range(masks))
        self.iou_prediction_head = Mlp(width, iou_hidden, masks, 3)

    def forward(self, image_embedding: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, G, G], [1, C, G, G], [B, N, C], [B or 1, C, G, G] -> low_res_masks [B, 1, M, M], iou_predictions [B, 1].

        Only mask token 0 is read out (multimask_output off): LISA and box prompts use no other.
        """
        batch = image_embedding.shape[0]
        output_tokens = torch.cat((self.iou_token.weight, self.mask_tokens.weight), dim=0)
        tokens = torch.cat((output_tokens.expand(batch, -1, -1), sparse), dim=1)
        hidden, image = self.transformer(image_embedding + dense, image_pe, tokens)
        upscaled = self.output_upscaling(image.transpose(1, 2).reshape(-1, *image_pe.shape[1:]))  # [B, C/8, M, M]
        hyper = self.output_hypernetworks_mlps[0](hidden[:, 1])  # [B, C/8]
        masks = (hyper.unsqueeze(1) @ upscaled.flatten(2)).unflatten(2, tuple(upscaled.shape[-2:]))  # [B, 1, M, M]
        return masks, self.iou_prediction_head(hidden[:, 0])[:, :1]


class PositionEncoding(nn.Module):
    """Random Fourier features of points in the unit square, float32."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, coords: Tensor) -> Tensor:
        """x, y in 0..1 [..., 2] -> [..., 2 * features]."""
        angles = 2 * math.pi * ((2 * coords - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class PromptEncoder(nn.Module):
    """Points and box corners -> sparse prompts; no mask prompt -> one dense vector."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.pe_layer = PositionEncoding(width // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))  # background, foreground, two corners
        self.not_a_point_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)

    def dense_pe(self, grid: int) -> Tensor:
        """[1, C, G, G] encoding of the grid's cell centres."""
        centres = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack((x, y), dim=-1)).permute(2, 0, 1).unsqueeze(0)

    def forward(self, coords: Tensor, labels: Tensor, image_size: int) -> Tensor:
        """coords [B, N, 2] in pixels of the S x S input, labels [B, N] (-1 padding, 0, 1, 2, 3) -> sparse [B, N, C]."""
        encoded = self.pe_layer((coords + 0.5) / image_size)
        labels = labels.unsqueeze(-1)
        sparse = torch.where(labels == -1, self.not_a_point_embed.weight, encoded)
        for value, embedding in enumerate(self.point_embeddings):
            sparse = sparse + embedding.weight * (labels == value)
        return sparse
