"""SAM's image encoder for export: a ViT with windows and decomposed relative positions, written for fusion.

Kirillov et al., "Segment Anything" (arXiv 2304.02643); attribute names are the official checkpoints', so those load as they
are, and equality with Meta's package is what tests/unit/test_sam_encoder.py proves. What differs is only the order of work:

- Linear layers see the 64 x 64 tokens, never the padding to 70 x 70: a padded token is zero, so its q, k, v are the bias alone.
- Cutting into windows and into heads is one transpose, and so is putting them together.
- Both relative positions make one bias, the mask of scaled-dot-product attention.
- Everything is channels last: norms stand on the last axis, and 1 x 1 and patch convolutions are matrix products.
- No reshape asks for a shape: only the batch is -1.

Shapes: B pictures, S side (1024), G grid side (64), C width, h heads, d = C / h, w side of a window (14, or G where global),
n windows along a side (5, or 1), E = 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, of 0..255; segment_anything/build_sam.py
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SamSize:
    """One released size of the encoder."""

    name: str
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    image_size: int = 1024
    patch: int = 16
    window: int = 14
    out: int = 256

    def __post_init__(self) -> None:
        assert self.width % self.heads == 0 and self.image_size % self.patch == 0

    @property
    def grid(self) -> int:
        return self.image_size // self.patch

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one picture, as this module computes them."""
        tokens, c = self.grid**2, self.width
        linear = self.depth * tokens * 12 * c * c + tokens * c * 3 * self.patch**2 + tokens * (c * self.out + 9 * self.out**2)
        total = linear
        for i in range(self.depth):
            side = self.grid if i in self.global_blocks else self.window
            padded = (-(-self.grid // side) * side) ** 2
            total += padded * c * (2 * side * side + 2 * side)  # q k^T, probabilities v, and the two positions
        return total


SIZES = {
    size.name: size
    for size in (
        SamSize("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        SamSize("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        SamSize("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    )
}


def attend(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T + bias) v; q, k, v [N, h, w w, d], and the bias as `Attention.positions` gives it."""
    bias = (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).reshape(-1, q.shape[1], q.shape[2], q.shape[2])
    if torch.onnx.is_in_onnx_export():  # the pattern that engines fuse; the exporter's own would scale q and k each
        return torch.softmax((q * scale) @ k.transpose(-2, -1) + bias, dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


class Attention(nn.Module):
    """Attention inside windows of w x w tokens (w = G: one window, all tokens)."""

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.heads, self.head_width, self.grid, self.window = heads, width // heads, grid, window
        self.attend = attend  # benchmarks/sam_torch.py tries others
        self.windows = -(-grid // window)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_h, self.rel_pos_w = (nn.Parameter(torch.zeros(2 * window - 1, width // heads)) for _ in range(2))
        steps = torch.arange(window, device="cpu")  # constants exist even where the weights are still on the meta device
        self.register_buffer("offset", steps[:, None] - steps[None, :] + window - 1, persistent=False)  # [query, key]

    def forward(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> [B, G, G, C]."""
        n, w, d = self.windows, self.window, self.head_width
        q, k, v = self.split(x)  # [B n n, h, w w, d] each
        out = self.attend(q, k, v, *self.positions(q), d**-0.5)
        out = out.reshape(-1, n, n, self.heads, w, w, d).permute(0, 1, 4, 2, 5, 3, 6)  # [B, n, w, n, w, h, d]
        out = out.reshape(-1, n * w, n * w, self.heads * d)
        return self.proj(out[:, : self.grid, : self.grid] if n * w > self.grid else out)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, G, G, C] -> q, k, v [B n n, h, w w, d]: windows and heads in one transpose."""
        n, w, heads, d = self.windows, self.window, self.heads, self.head_width
        qkv, beyond = F.linear(x, self.qkv.weight), n * w - self.grid
        if beyond:
            qkv = F.pad(qkv, (0, 0, 0, beyond, 0, beyond))
        qkv = (qkv + self.qkv.bias).reshape(-1, n, w, n, w, 3, heads, d)
        qkv = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, heads, w * w, d)
        return qkv[0], qkv[1], qkv[2]

    def positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """q [N, h, w w, d] -> its product with the distance to each row of keys and to each column, [N, h, w, w, w] each."""
        w = self.window
        rows, columns = (table[self.offset].transpose(1, 2) for table in (self.rel_pos_h, self.rel_pos_w))  # [w, d, w] each
        q = q.reshape(-1, self.heads, w, w, self.head_width)
        by_row = q @ rows  # [N, h, w, w, key row]
        by_column = (q.transpose(2, 3) @ columns).transpose(2, 3)  # [N, h, w, w, key column]
        return by_row, by_column


class MlpBlock(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(x)))


class Block(nn.Module):
    def __init__(self, size: SamSize, window: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size.width, eps=1e-6), nn.LayerNorm(size.width, eps=1e-6)
        self.attn = Attention(size.width, size.heads, size.grid, window)
        self.mlp = MlpBlock(size.width, 4 * size.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, G, G, C] -> [B, G, G, C]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """The 16 x 16 convolution without overlap, as a matrix product."""

    def __init__(self, size: SamSize) -> None:
        super().__init__()
        self.grid, self.patch = size.grid, size.patch
        self.proj = nn.Conv2d(3, size.width, size.patch, size.patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """float [B, 3, S, S] -> [B, G, G, C]."""
        patches = pixels.reshape(-1, 3, self.grid, self.patch, self.grid, self.patch).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.reshape(-1, self.grid, self.grid, 3 * self.patch**2), self.proj.weight.flatten(1), self.proj.bias)


class LayerNorm(nn.Module):
    """Meta's LayerNorm2d on channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-6)


class Neck(nn.Sequential):
    """[B, G, G, C] -> [B, E, G, G]."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(width, out, 1, bias=False), LayerNorm(out), nn.Conv2d(out, out, 3, padding=1, bias=False), LayerNorm(out)
        )

    def forward(self, x: Tensor) -> Tensor:
        mix, norm1, conv, norm2 = self
        x = norm1(F.linear(x, mix.weight.flatten(1)))
        return norm2(conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ImageEncoder(nn.Module):
    """sam_pixels uint8 [B, 3, S, S], resized_size int32 [B, 2] -> image_embedding float32 [B, 256, G, G].

    The picture lies in the upper left; resized_size is its height and width there. What lies beyond is zero after the
    normalisation, as in Meta's `Sam.preprocess`.
    """

    def __init__(self, size: SamSize) -> None:
        super().__init__()
        self.size = size
        self.patch_embed = PatchEmbed(size)
        self.pos_embed = nn.Parameter(torch.zeros(1, size.grid, size.grid, size.width))
        self.blocks = nn.ModuleList(Block(size, size.grid if i in size.global_blocks else size.window) for i in range(size.depth))
        self.neck = Neck(size.width, size.out)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN, device="cpu").view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD, device="cpu").view(3, 1, 1), persistent=False)
        self.register_buffer("position", torch.arange(size.image_size, dtype=torch.int32, device="cpu"), persistent=False)

    def forward(self, sam_pixels: Tensor, resized_size: Tensor) -> Tensor:
        pixels = self.normalise(sam_pixels, resized_size)
        x = self.patch_embed(pixels.to(self.pos_embed.dtype)) + self.pos_embed  # [B, G, G, C]
        for block in self.blocks:
            x = block(x)
        return self.neck(x).float()

    def normalise(self, sam_pixels: Tensor, resized_size: Tensor) -> Tensor:
        """uint8 -> float32 of the same shape: mean 0, deviation 1, and 0 beyond the picture."""
        inside = self.position < resized_size.unsqueeze(2)  # [B, 2, S]
        window = inside[:, 0, :, None] & inside[:, 1, None, :]
        return (sam_pixels.float() - self.pixel_mean) / self.pixel_std * window.unsqueeze(1).float()
