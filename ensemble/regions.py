"""Places and shapes: words for where something is, connected regions, COCO run-length encoding."""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco

from .contract import LOCATIONS


def location(x: float, y: float, width: float, height: float) -> str:
    """The word for a point of a picture: thirds in both directions, their borders belonging to the lower one."""
    column = int(x > width / 3) + int(x > 2 * width / 3)
    row = int(y > height / 3) + int(y > 2 * height / 3)
    return LOCATIONS[3 * row + column]


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Connected regions (8 neighbours) of a uint8 [h, w] mask.

    Returns:
        labels int32 [h, w] (0: background), stats int32 [n, 5] (x, y, width, height, area) and centroids float64 [n, 2]
        (x, y of pixel centres), without the background: region k has label k + 1.
    """
    _, labels, stats, centroids = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return labels, stats[1:], centroids[1:] + 0.5


def rle(crop: np.ndarray, x0: int, y0: int, height: int, width: int) -> dict[str, object]:
    """COCO's compressed run-length encoding of a picture-sized mask that is zero outside of `crop`.

    Args:
        crop: bool or uint8 [h, w], its top left corner at x0, y0 of a picture of `height` x `width`.
    Returns:
        {"size": [height, width], "counts": text}, as pycocotools reads it.
    """
    bounds = [_column_runs(crop[:, x : x + 256], x0 + x, y0, height) for x in range(0, crop.shape[1], 256)]
    edges = np.concatenate(bounds) if bounds else np.zeros((0, 2), np.int64)
    joined = np.flatnonzero(edges[1:, 0] == edges[:-1, 1])  # a run over a whole column goes on in the next one
    flat = np.delete(edges.reshape(-1), np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(np.concatenate([[0], flat, [height * width]]))
    packed = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode()}


def _column_runs(block: np.ndarray, x0: int, y0: int, height: int) -> np.ndarray:
    """int64 [n, 2]: start and end of every vertical run, as positions in column-major order of the picture."""
    padded = np.zeros((block.shape[1], block.shape[0] + 2), np.int8)
    padded[:, 1:-1] = block.T != 0
    columns, places = np.nonzero(np.diff(padded, axis=1))
    return ((columns + x0) * height + y0 + places).reshape(-1, 2).astype(np.int64)
