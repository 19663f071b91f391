"""From LISA's mask logits to defects at the picture's own resolution, with bounded memory.

Every `[SEG]` slot is treated by itself and the slots are joined at the end, so a later `[SEG]` can only add to the mask.
Regions are told apart on blocks of f x f pixels, 64 along the longest side: a crack broken by a few faint pixels is one defect to a person.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .picture import Window
from .regions import components, location, rle
from .upsample import Rows, strips, upsampler

SPECK = 0.0002  # of the picture: smaller regions are dropped where their slot has larger ones
_LABEL_SIDE = 64
_PEAK_SIDE = 512


@dataclass(frozen=True)
class Frame:
    """Where defects may be: the window of the part (or the whole picture) and the part's own logits, if a box was given."""

    original: tuple[int, int]
    resized: tuple[int, int]
    window: Window
    part: np.ndarray | None  # SAM's logits float32 [M, M], None: everything in the window

    @property
    def block(self) -> int:
        return max(math.ceil(max(self.original) / _LABEL_SIDE), 1)

    def rows(self, low_res: np.ndarray, columns: np.ndarray | None = None) -> Rows:
        columns = np.arange(self.window[0], self.window[2]) if columns is None else columns
        return upsampler(low_res, self.resized, self.original, columns)

    def allowed(self, columns: np.ndarray | None = None) -> Rows | None:
        return None if self.part is None else self.rows(self.part, columns)


@dataclass(frozen=True)
class Found:
    """mask uint8 [h, w] of the window; share float32 [h/f, w/f]: sum over a block's mask pixels of their probability."""

    mask: np.ndarray
    share: np.ndarray
    peak: float  # the largest probability where a defect may be, 0..1


def part_frame(
    part: np.ndarray | None, original: tuple[int, int], resized: tuple[int, int], window: Window
) -> tuple[Frame, np.ndarray | None]:
    """The frame of a request and the part's mask (uint8, the window's size; None without a part).

    SAM's empty answer means the whole window, as in `cutout`.
    """
    frame = Frame(original, resized, window, part)
    if part is None:
        return frame, None
    x0, y0, x1, y1 = window
    rows, mask = frame.rows(part), np.empty((y1 - y0, x1 - x0), np.uint8)
    for strip in strips(y0, y1, x1 - x0):
        mask[strip - y0] = rows(strip) > 0
    if mask.any():
        return frame, mask
    return Frame(original, resized, window, None), np.ones_like(mask)


def find(slots: np.ndarray, frame: Frame, never_empty: bool, specks: bool = False) -> Found:
    """The union of the slots' masks.

    Args:
        slots: float32 [n, M, M], the logits of the `[SEG]` tokens in use.
        specks: keep them.
        never_empty: the verdict is an anomaly already: an empty first slot gives the region around its peak instead.
    """
    x0, y0, x1, y1 = frame.window
    mask, peak = np.zeros((y1 - y0, x1 - x0), np.uint8), 0.0
    for index, low_res in enumerate(slots):
        one, best = _slot(low_res, frame, 0.0)
        if never_empty and index == 0 and not one.any():
            threshold, at = _around_peak(low_res, frame)
            one, _ = _slot(low_res, frame, threshold)
            _keep(one, frame.block, lambda labels, _: np.array([labels[at[0] // frame.block, at[1] // frame.block] - 1]))  # noqa: B023
        elif not specks:
            _keep(one, frame.block, lambda _, areas: _large(areas, frame.original))
        np.maximum(mask, one, out=mask)
        peak = max(peak, best)
    return Found(mask, _share(slots, mask, frame), peak)


def _slot(low_res: np.ndarray, frame: Frame, threshold: float) -> tuple[np.ndarray, float]:
    """One slot's mask in the window, and the largest probability there."""
    x0, y0, x1, y1 = frame.window
    rows, allowed, mask, top = frame.rows(low_res), frame.allowed(), np.zeros((y1 - y0, x1 - x0), np.uint8), -math.inf
    for strip in strips(y0, y1, x1 - x0):
        logits = rows(strip)
        if allowed is not None:
            logits = np.where(allowed(strip) > 0, logits, -np.inf)
        mask[strip - y0] = logits > threshold
        top = max(top, float(logits.max()))
    return mask, float(_sigmoid(np.float64(top)))


def _around_peak(low_res: np.ndarray, frame: Frame) -> tuple[float, tuple[int, int]]:
    """A threshold halfway between the mean and the peak of the allowed logits, and the peak's row and column in the window."""
    x0, y0, x1, y1 = frame.window
    step = max(math.ceil(max(x1 - x0, y1 - y0) / _PEAK_SIDE), 1)
    lines, columns = np.arange(y0, y1, step), np.arange(x0, x1, step)
    logits, allowed = frame.rows(low_res, columns)(lines), frame.allowed(columns)
    inside = np.ones(logits.shape, bool) if allowed is None else allowed(lines) > 0
    if not inside.any():  # a part thinner than the sampling step: every pixel then
        return -math.inf, _first_allowed(frame)
    row, column = np.unravel_index(np.argmax(np.where(inside, logits, -np.inf)), logits.shape)
    top, mean = float(logits[row, column]), float(logits[inside].mean())
    threshold = (top + mean) / 2 if top - mean > 1e-6 else top - 1
    return threshold, (int(row) * step, int(column) * step)


def _first_allowed(frame: Frame) -> tuple[int, int]:
    x0, y0, x1, y1 = frame.window
    allowed = frame.allowed()
    for row in range(y0, y1):
        places = np.flatnonzero(allowed(np.array([row]))[0] > 0) if allowed is not None else np.array([0])
        if len(places):
            return row - y0, int(places[0])
    raise AssertionError("a part without a pixel")


def _share(slots: np.ndarray, mask: np.ndarray, frame: Frame) -> np.ndarray:
    x0, y0, x1, y1 = frame.window
    height, width, block = y1 - y0, x1 - x0, frame.block
    share = np.zeros((math.ceil(height / block), math.ceil(width / block)), np.float32)
    if not mask.any():
        return share
    rows = [frame.rows(low_res) for low_res in slots]
    for strip in strips(y0, y1, x1 - x0):
        inside = mask[strip - y0]
        if inside.any():
            best = np.maximum.reduce([row(strip) for row in rows])
            likely = np.where(inside, _sigmoid(best), np.float32(0))
            if block > 1:
                likely = np.add.reduceat(likely, np.arange(0, width, block), axis=1)
            np.add.at(share, (strip - y0) // block, likely)
    return share


def _blocks(mask: np.ndarray, block: int) -> np.ndarray:
    """Mask pixels in each block: int32 [h/f, w/f]."""
    if block == 1:
        return mask.astype(np.int32)
    lines = [mask[row : row + block].sum(axis=0, dtype=np.int32) for row in range(0, len(mask), block)]
    return np.stack([np.add.reduceat(line, np.arange(0, len(line), block)) for line in lines])


def _keep(mask: np.ndarray, block: int, choose: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Erase all regions of a mask but those whose numbers `choose(labels, areas)` returns."""
    if not mask.any():
        return
    counts = _blocks(mask, block)
    labels, stats, _ = components((counts > 0).astype(np.uint8))
    areas = np.bincount(labels.ravel(), weights=counts.ravel(), minlength=len(stats) + 1)[1:]
    kept = np.zeros(len(stats) + 1, np.uint8)
    kept[choose(labels, areas) + 1] = 1
    if not kept[1:].all():
        stay = kept[labels]
        for row in range(0, len(mask), block):
            mask[row : row + block] &= np.repeat(stay[row // block], block)[: mask.shape[1]]


def _large(areas: np.ndarray, original: tuple[int, int]) -> np.ndarray:
    large = np.flatnonzero(areas >= SPECK * original[0] * original[1])
    return large if len(large) else np.array([int(np.argmax(areas))])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def describe(found: Found, frame: Frame) -> list[dict[str, object]]:
    """The report's `defects`, largest first."""
    if not found.mask.any():
        return []
    block, (height, width) = frame.block, frame.original
    counts = _blocks(found.mask, block)
    labels, stats, _ = components((counts > 0).astype(np.uint8))
    areas = np.bincount(labels.ravel(), weights=counts.ravel())[1:]
    shares = np.bincount(labels.ravel(), weights=found.share.ravel())[1:]
    order: Sequence[int] = np.argsort(-areas, kind="stable").tolist()
    return [_defect(found, frame, labels, stats[k], k + 1, shares[k] / areas[k], height, width) for k in order]


def _defect(found: Found, frame: Frame, labels: np.ndarray, stat: np.ndarray, label: int, score: float, height: int, width: int) -> dict:
    block, (x, y, w, h) = frame.block, stat[:4].tolist()
    mine = (labels[y : y + h, x : x + w] == label).astype(np.uint8)
    pixels = found.mask[y * block : (y + h) * block, x * block : (x + w) * block]
    if block > 1:
        mine = cv2.resize(mine, (w * block, h * block), interpolation=cv2.INTER_NEAREST)[: pixels.shape[0], : pixels.shape[1]]
    mine = mine & pixels
    lines, columns = mine.sum(axis=1, dtype=np.int64), mine.sum(axis=0, dtype=np.int64)
    rows, cols = np.flatnonzero(lines), np.flatnonzero(columns)
    left, top, area = frame.window[0] + x * block, frame.window[1] + y * block, int(lines.sum())
    center_x = left + float((columns * np.arange(len(columns))).sum()) / area + 0.5
    center_y = top + float((lines * np.arange(len(lines))).sum()) / area + 0.5
    return {
        "box": [float(left + cols[0]), float(top + rows[0]), float(left + cols[-1] + 1), float(top + rows[-1] + 1)],
        "area": area,
        "score": round(float(score), 4),
        "location": location(center_x, center_y, width, height),
        "rle": rle(mine, left, top, height, width),
    }
