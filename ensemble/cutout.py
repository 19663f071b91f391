"""The part without its background, and the vision encoder's view of it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from .picture import Window
from .upsample import strips, upsampler

_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def part_mask(
    low_res: np.ndarray, resized: tuple[int, int], original: tuple[int, int], window: Window, shape: tuple[int, int]
) -> np.ndarray:
    """The part inside a window, uint8 0 or 1 of `shape` (the window's size, or smaller: then sampled at pixel centres).

    Where SAM finds nothing in the window the whole window is the part: better to inspect too much than nothing.

    Args:
        low_res: SAM's logits, float32 [M, M].
        resized, original: heights and widths of the picture inside SAM's square, and of the original.
    """
    x0, y0, x1, y1 = window
    columns = x0 + ((np.arange(shape[1]) + 0.5) * (x1 - x0) / shape[1]).astype(np.int64)
    lines = y0 + ((np.arange(shape[0]) + 0.5) * (y1 - y0) / shape[0]).astype(np.int64)
    rows = upsampler(low_res, resized, original, columns)
    mask = np.empty(shape, np.uint8)
    for strip in strips(0, shape[0], shape[1]):
        mask[strip] = rows(lines[strip]) > 0
    return mask if mask.any() else np.ones(shape, np.uint8)


def without_background(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """AnomalyLISA's rule: outside of the part white where the part's mean tone is at most 127.5, else black.

    Args:
        pixels: uint8 [h, w, 3]; mask: uint8 [h, w].
    """
    inside = mask.astype(bool)
    tone = sum(float(pixels[..., channel][inside].mean()) for channel in range(3)) / 3
    return np.where(inside[..., None], pixels, np.uint8(255 if tone <= 127.5 else 0))


def vision_pixels(part: np.ndarray, dims: Mapping[str, Any]) -> np.ndarray:
    """uint8 [1, 3, V, V] from the part, uint8 [h, w, 3], as the vision encoder's manifest wants it.

    `resize`: "squash" (to V x V) or "short_edge_center_crop" (CLIP: the short edge to V, then the middle V x V).
    """
    side, filter_ = int(dims["image_size"]), _RESAMPLE[dims["resample"]]
    image = Image.fromarray(part)
    if dims["resize"] == "squash":
        image = image.resize((side, side), filter_)
    else:
        short = min(image.size)
        image = image.resize((int(side * image.width / short), int(side * image.height / short)), filter_)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None])


def seen_window(window: Window, dims: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1: what of a window the vision encoder sees (its middle square where it crops)."""
    x0, y0, x1, y1 = map(float, window)
    if dims["resize"] == "squash":
        return x0, y0, x1, y1
    short = min(x1 - x0, y1 - y0)
    left, top = x0 + (x1 - x0 - short) / 2, y0 + (y1 - y0 - short) / 2
    return left, top, left + short, top + short


def png(pixels: np.ndarray) -> bytes:
    """uint8 [h, w, 3] as PNG; compressed lightly, for large pictures must not take seconds."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
