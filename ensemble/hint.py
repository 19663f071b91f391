"""From the expert's map to words: the hint sentence, and what stands before LISA's question."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .regions import components, location

MOST_PLACES = 3
_OF_STRONGEST = 0.6  # of a map's largest value: weaker patches are no place of their own (docs/experts.md)


def sentence(score: float, places: Sequence[str]) -> str:
    """The hint sentence. `score` 0..1; `places`: words of the 3 x 3 grid, empty below 0.5."""
    if score < 0.5 or not places:
        return f"The few-shot expert finds no anomaly (score {min(score, 0.49):.2f})."
    where = f"{', '.join(places[:-1])} and {places[-1]}" if len(places) > 1 else places[0]
    what = "anomalies" if len(places) > 1 else "an anomaly"
    return f"The few-shot expert finds {what} at the {where} of the image (score {score:.2f})."


def places(raw: np.ndarray, limit: float, seen: tuple[float, float, float, float], height: int, width: int) -> list[str]:
    """Where a map reaches `limit` and 0.6 of its largest value, strongest region first, at most three different words.

    Args:
        raw: float [gh, gw], 0 (normal) to 2; `limit` is where its calibration says 0.5.
        seen: x0, y0, x1, y1 of the grid in the picture; height, width: the picture's.
    """
    labels, stats, centroids = components((raw >= max(limit, _OF_STRONGEST * raw.max())).astype(np.uint8))
    weights = np.bincount(labels.ravel(), weights=raw.ravel())[1:]
    scale_x, scale_y = (seen[2] - seen[0]) / raw.shape[1], (seen[3] - seen[1]) / raw.shape[0]
    words = [
        location(seen[0] + centroids[k][0] * scale_x, seen[1] + centroids[k][1] * scale_y, width, height)
        for k in np.argsort(-weights, kind="stable")
    ]
    return list(dict.fromkeys(words))[:MOST_PLACES]


def heatmap(grid: np.ndarray | None, seen: tuple[float, float, float, float], height: int, width: int, longest: int) -> np.ndarray:
    """uint8 [H', W'] on the picture's aspect, longest side at most `longest`: the map at its place, 0 elsewhere; 255 = 1."""
    scale = min(longest / max(height, width), 1)
    picture = np.zeros((max(round(height * scale), 1), max(round(width * scale), 1)), np.uint8)
    if grid is None:
        return picture
    x0, y0 = (min(int(round(v * scale)), limit - 1) for v, limit in ((seen[0], picture.shape[1]), (seen[1], picture.shape[0])))
    x1, y1 = max(round(seen[2] * scale), x0 + 1), max(round(seen[3] * scale), y0 + 1)
    target = picture[y0:y1, x0:x1]
    smooth = cv2.resize(grid.astype(np.float32), target.shape[::-1], interpolation=cv2.INTER_LINEAR)
    target[:] = np.round(smooth.clip(0, 1) * 255)
    return picture


def experts(description: str | None, part: str | None, hint: str | None, told: str | None) -> list[str]:
    """What stands before LISA's first question, as sentences: the product, where SAM found the part, the hint, the caller's expert.

    The part is only named beside others: a caller's question alone stays as it is.
    """
    first, last = _closed(description), _closed(told)
    words = (first, part if first or hint or last else None, hint, last)
    return [word for word in words if word]


def part(box: np.ndarray, height: int, width: int) -> str | None:
    """SAM's part in a sentence. box: float [1, 4] or [0, 4] where none was given."""
    if not len(box):
        return None
    x0, y0, x1, y1 = (float(v) for v in box[0])
    return f"The part is at the {location((x0 + x1) / 2, (y0 + y1) / 2, width, height)} of the image."


def _closed(text: str | None) -> str | None:
    """A sentence with its full stop."""
    text = (text or "").strip()
    return None if not text else text if text[-1] in ".!?" else f"{text}."
