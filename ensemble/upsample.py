"""Low-resolution mask logits at the picture's own resolution, in strips.

As the published code does: bilinear (align_corners=False) from M x M to S x S = 4 M x 4 M, cut to the resized picture,
bilinear to H x W. The second step is separable; only the rows and columns asked for are computed, so a picture of 100
megapixels needs no more memory than a strip of it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Rows = Callable[[np.ndarray], np.ndarray]
"""Row numbers int [n] of the original picture -> float32 logits [n, columns]."""


def upsampler(low_res: np.ndarray, resized: tuple[int, int], original: tuple[int, int], columns: np.ndarray) -> Rows:
    """Logits of chosen rows at the given columns.

    Args:
        low_res: float32 [M, M].
        resized: height, width of the picture inside the S x S square.
        original: H, W.
        columns: int [n] column numbers of the original picture.
    """
    side = 4 * len(low_res)
    square = cv2.resize(low_res, (side, side), interpolation=cv2.INTER_LINEAR)[: resized[0], : resized[1]]
    left, right, share = _neighbours(columns, resized[1], original[1])
    wide = square[:, left] * (1 - share) + square[:, right] * share

    def rows(numbers: np.ndarray) -> np.ndarray:
        above, below, part = _neighbours(numbers, resized[0], original[0])
        return wide[above] * (1 - part[:, None]) + wide[below] * part[:, None]

    return rows


def _neighbours(targets: np.ndarray, source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For pixels of an axis of `target` pixels: the two source pixels they lie between, and the second one's share."""
    place = np.maximum((targets + 0.5) * (source / target) - 0.5, 0)
    first = np.minimum(place.astype(np.int64), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, (place - first).astype(np.float32)


def strips(start: int, stop: int, width: int, pixels: int = 2**18) -> list[np.ndarray]:
    """Row numbers start..stop in pieces of about `pixels` pixels."""
    step = max(pixels // max(width, 1), 1)
    return [np.arange(row, min(row + step, stop)) for row in range(start, stop, step)]
