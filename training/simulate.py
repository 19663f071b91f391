"""Synthetic defects on normal solar cells, with known masks: cracks, inactive areas, finger interruptions.

Electroluminescence pictures: what is dark carries no current. Cracks are thin dark lines, mostly slanted; inactive areas
are cut off by cracks or between busbars (horizontal in ELPV) and have sharp edges; finger interruptions are short dark
bars at right angles to the busbars.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from sightline_training.data import cells, picture

KINDS = ("crack", "inactive area", "finger interruption")
SUPERSAMPLE = 4  # lines are drawn finer, then averaged: thin cracks need soft edges


@dataclass(frozen=True)
class Sample:
    pixels: np.ndarray  # uint8 [H, W]
    masks: dict[str, np.ndarray]  # bool [H, W] of each kind that is present


def busbars(cell: np.ndarray) -> list[int]:
    """Rows of the busbars: the darkest rows against their surroundings, at least 40 apart."""
    rows = cell[:, 40:-40].mean(1).astype(np.float32)
    contrast = cv2.blur(rows[:, None], (1, 31))[:, 0] - rows
    contrast[:20] = contrast[-20:] = -1e9
    found: list[int] = []
    for row in np.argsort(-contrast):
        if contrast[row] < 6 or len(found) == 4:
            break
        if all(abs(int(row) - other) >= 40 for other in found):
            found.append(int(row))
    return sorted(found) or [cell.shape[0] // 2]


def strokes(shape: tuple[int, int], lines: list[np.ndarray], width: float) -> np.ndarray:
    """Anti-aliased coverage in 0..1 of polylines (float points x, y)."""
    canvas = np.zeros((shape[0] * SUPERSAMPLE, shape[1] * SUPERSAMPLE), np.uint8)
    for points in lines:
        scaled = np.round(points * SUPERSAMPLE).astype(np.int32)
        cv2.polylines(canvas, [scaled], False, 255, max(1, round(width * SUPERSAMPLE)))
    return cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def walk(rng: np.random.Generator, start: np.ndarray, angle: float, length: float) -> np.ndarray:
    """A nearly straight polyline: cracks follow the crystal, with small kinks."""
    steps = int(rng.integers(2, 6))
    points = [start]
    for _ in range(steps):
        angle += rng.normal(0, 0.12)
        points.append(points[-1] + length / steps * np.array([np.cos(angle), np.sin(angle)]))
    return np.array(points)


def crack(cell: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns darkness in 0..1 and the mask."""
    size = cell.shape[0]
    angle = rng.choice([1, -1]) * rng.uniform(0.35, 1.35) + rng.choice([0, np.pi])
    main = walk(rng, rng.uniform(0.08, 0.92, 2) * size, angle, rng.uniform(0.2, 0.8) * size)
    lines = [main]
    for _ in range(int(rng.choice([0, 0, 1, 2, 4]))):
        origin = main[rng.integers(len(main))]
        lines.append(walk(rng, origin, angle + rng.choice([1, -1]) * rng.uniform(0.4, 1.4), rng.uniform(0.1, 0.4) * size))
    coverage = strokes(cell.shape, lines, rng.uniform(0.9, 2.6))
    soft = cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.5, 0.9))
    mask = cv2.dilate((soft > 0.2).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return soft * rng.uniform(0.25, 0.75), mask


def inactive_area(cell: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    size = cell.shape[0]
    edges = [0, *busbars(cell), size]
    band = int(rng.integers(len(edges) - 1))
    y0, y1 = edges[band], edges[band + 1]
    shape = rng.choice(["corner", "band", "blob"], p=[0.3, 0.4, 0.3])
    if shape == "corner":
        x, y = rng.choice([0, size]), rng.choice([0, size])
        reach = rng.uniform(0.1, 0.5, 2) * size
        polygon = np.array([[x, y], [x + np.sign(size / 2 - x) * reach[0], y], [x, y + np.sign(size / 2 - y) * reach[1]]])
    elif shape == "band":
        left, width = rng.uniform(0, 0.8) * size, rng.uniform(0.12, 0.7) * size
        slant = rng.normal(0, 25, 2)
        bottom = y1 if rng.random() < 0.7 else rng.uniform(y0 + 0.4 * (y1 - y0), y1)
        polygon = np.array(
            [[left, y0], [left + width, y0], [left + width + slant[0], bottom], [left + slant[1], bottom + rng.normal(0, 8)]]
        )
    else:
        centre, radius = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0.06, 0.2) * size
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 8))))
        polygon = centre + radius * rng.uniform(0.6, 1.3, (len(angles), 1)) * np.stack([np.cos(angles), np.sin(angles)], 1)
    canvas = np.zeros(cell.shape, np.uint8)
    cv2.fillPoly(canvas, [np.round(polygon).astype(np.int32)], 1)
    soft = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), rng.uniform(0.5, 1.2))
    shade = 1 - rng.uniform(0, 0.35) * np.linspace(0, 1, size, dtype=np.float32)[None, :: rng.choice([1, -1])]
    darkness = np.exp(rng.uniform(np.log(0.22), np.log(0.95)))
    return soft * darkness * shade, canvas > 0


def finger_interruption(cell: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    size = cell.shape[0]
    bars = busbars(cell)
    darkness = np.zeros(cell.shape, np.float32)
    x = rng.uniform(0.06, 0.94) * size
    for _ in range(int(rng.integers(1, 5))):
        start = float(rng.choice(bars))
        end = np.clip(start + rng.choice([1, -1]) * rng.uniform(0.08, 0.3) * size, 4, size - 4)
        here = np.clip(x + rng.normal(0, 30), 6, size - 6)
        line = strokes(cell.shape, [np.array([[here, start], [here, end]])], rng.uniform(1.5, 4.5))
        darkness = np.maximum(darkness, line * rng.uniform(0.18, 0.5))
    soft = cv2.GaussianBlur(darkness, (0, 0), rng.uniform(0.7, 1.3))
    mask = cv2.dilate((soft > 0.06).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return soft, mask


MAKERS = dict(zip(KINDS, (crack, inactive_area, finger_interruption), strict=True))


def simulate(cell: np.ndarray, rng: np.random.Generator) -> Sample:
    """One to three defects of one or two kinds on a normal cell, uint8 [H, W]."""
    kinds = rng.choice(KINDS, size=1 if rng.random() < 0.7 else 2, replace=False, p=[0.45, 0.35, 0.2])
    light = np.ones(cell.shape, np.float32)
    masks: dict[str, np.ndarray] = {}
    for kind in kinds:
        for _ in range(1 if rng.random() < 0.8 else 2):
            darkness, mask = MAKERS[kind](cell, rng)
            light *= 1 - darkness
            masks[str(kind)] = masks.get(str(kind), np.zeros(cell.shape, bool)) | mask
    masks = {kind: mask for kind, mask in masks.items() if mask.sum() >= 20}
    pixels = np.clip(cell * light + rng.normal(0, 1.0, cell.shape), 0, 255).astype(np.uint8)
    return Sample(pixels, masks) if masks else simulate(cell, rng)


def contact_sheet(path: Path, rows: int = 4, columns: int = 8, side: int = 150) -> None:
    """Simulated defects, one cell below its mask, for a person's eye."""
    rng, good = np.random.default_rng(0), [cell for cell in cells("train") if cell.probability == 0]
    sheet = Image.new("L", (columns * side, 2 * rows * side))
    for i in range(rows * columns):
        sample = simulate(picture(good[rng.integers(len(good))]), rng)
        mask = np.any(list(sample.masks.values()), axis=0)
        for k, image in enumerate((sample.pixels, mask.astype(np.uint8) * 255)):
            where = ((i % columns) * side, (2 * (i // columns) + k) * side)
            sheet.paste(Image.fromarray(image).resize((side - 4, side - 4)), where)
    sheet.save(path, quality=80)


if __name__ == "__main__":
    contact_sheet(Path(__file__).with_name("simulated.jpg"))
