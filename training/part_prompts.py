"""Prompts for drawn scenes, as a caller would give them, and the mask that each asks for.

Rows are x, y, label in SAM's frame, in the server's order: points (1 fore-, 0 background), then the box's corners (2, 3), or
one padding point (-1) where there is no box.
"""

from __future__ import annotations

import numpy as np
from sightline_training.features import MASK_SIDE, SAM_SIDE

CELL = SAM_SIDE // MASK_SIDE
PADDING = np.array([[0, 0, -1]], np.float32)


def point(where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x, y float32 [2] of a random place within the cells `where`, bool [M, M]."""
    chosen = np.flatnonzero(where)
    row, column = divmod(int(chosen[rng.integers(len(chosen))]), MASK_SIDE)
    return (np.array([column, row]) + rng.random(2)).astype(np.float32) * CELL


def inside(cover: np.ndarray) -> np.ndarray:
    """bool [M, M]: cells that lie wholly in a part (the fullest where none does)."""
    return cover >= min(float(cover.max()), 0.999)


def corners(box: np.ndarray, size: np.ndarray, rng: np.random.Generator, style: str) -> np.ndarray:
    """Rows [2, 3] of a box float32 [4] that is exact, has a margin on each side, or was drawn by an unsteady hand."""
    sides = np.tile(box[2:] - box[:2], 2)
    if style == "margin":
        box = box + rng.uniform(0, rng.uniform(0.02, 0.15), 4) * sides * (-1, -1, 1, 1)
    elif style == "jitter":
        box = box + rng.normal(0, 0.02, 4) * sides
    box = np.clip(box, 0, np.tile(size[::-1], 2))
    return np.array([[box[0], box[1], 2], [box[2], box[3], 3]], np.float32)


def box_prompt(cover: np.ndarray, boxes: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A box for one part, or the whole picture's for all of them.

    Args:
        cover: float32 [K, M, M]; boxes: float32 [K, 4]; size: int [2], height and width.
    Returns:
        rows [2, 3], target float32 [M, M].
    """
    style = str(rng.choice(["exact", "margin", "jitter", "whole"], p=[0.35, 0.37, 0.13, 0.15]))
    if style == "whole":
        return np.array([[0, 0, 2], [size[1], size[0], 3]], np.float32), cover.sum(0)
    part = int(rng.integers(len(cover)))
    return corners(boxes[part], size, rng, style), cover[part]


def point_prompt(
    cover: np.ndarray, boxes: np.ndarray, size: np.ndarray, rng: np.random.Generator, count: int, boxed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """`count` points, with a box or without: on one part, on one and off the others, on two parts, or on the ground.

    Returns rows [count + 2 or count + 1, 3] and the target float32 [M, M].
    """
    every = cover.sum(0)
    ground = (every == 0) & (np.arange(MASK_SIDE)[:, None] < size[0] // CELL) & (np.arange(MASK_SIDE) < size[1] // CELL)
    part = int(rng.integers(len(cover)))
    others = [k for k in range(len(cover)) if k != part]
    draw = rng.random()
    if not boxed and draw < 0.06 and ground.any():
        return _points(ground, inside(every) if count > 1 else None, rng, count), _within(1 - every, size)
    if not boxed and draw < 0.14 and others and count > 1:
        second = others[0]
        first = _points(inside(cover[part]), None, rng, count - 1)[:-1]
        return np.concatenate([first, _points(inside(cover[second]), None, rng, 1)]), cover[part] + cover[second]
    off = None
    if count > 1 and rng.random() < 0.65:
        off = _off(cover, boxes[part], ground, others, rng)
    rows = _points(inside(cover[part]), off, rng, count)
    if boxed:
        box, style = boxes[part], "margin"
        if others and off is not None and rng.random() < 0.5:  # a box around two parts: the points say which
            both = boxes[[part, others[0]]]
            box, style = np.concatenate([both[:, :2].min(0), both[:, 2:].max(0)]), "exact"
            rows[-2] = [*point(inside(cover[others[0]]), rng), 0]
        rows = np.concatenate([rows[:-1], corners(box, size, rng, style)])
    return rows, cover[part]


def _points(on: np.ndarray, off: np.ndarray | None, rng: np.random.Generator, count: int) -> np.ndarray:
    """Rows [count + 1, 3]: foreground points in cells `on`, one to all but one of them background points in `off`, padding."""
    behind = 0 if off is None or not off.any() else int(rng.integers(1, count))
    rows = [[*point(on, rng), 1] for _ in range(count - behind)] + [[*point(off, rng), 0] for _ in range(behind)]
    return np.concatenate([np.array(rows, np.float32), PADDING])


def _off(cover: np.ndarray, box: np.ndarray, ground: np.ndarray, others: list[int], rng: np.random.Generator) -> np.ndarray:
    """bool [M, M]: where background points may lie: another part, the ground near the part, or anywhere on the ground."""
    draw = rng.random()
    if others and draw < 0.6:
        return inside(cover[others[rng.integers(len(others))]])
    if draw < 0.8:
        x0, y0, x1, y1 = (box + (box[[2, 3, 2, 3]] - box[[0, 1, 0, 1]]) * (-0.15, -0.15, 0.15, 0.15)) / CELL
        near = np.zeros_like(ground)
        near[max(int(y0), 0) : int(y1) + 1, max(int(x0), 0) : int(x1) + 1] = True
        if (ground & near).any():
            return ground & near
    return ground


def _within(cover: np.ndarray, size: np.ndarray) -> np.ndarray:
    """`cover` where the picture is, 0 in the padding."""
    kept = np.zeros_like(cover)
    rows, columns = (-(-int(side) // CELL) for side in size)
    kept[:rows, :columns] = cover[:rows, :columns]
    return kept
