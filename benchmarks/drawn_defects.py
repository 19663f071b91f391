"""Six kinds of defect for any drawn product: scratch, stain, crack, missing part, foreign particle, dent.

Each takes the piece as it lies before the camera and gives it back changed. The mask is what changed, visibly: nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from drawn_canvas import SIDE, Random, Scene, field, grid

SHAPE = (SIDE, SIDE)
SHARES = (0.003, 0.06)  # of the picture that a defect may cover
VISIBLE = 6.0  # levels of 255: less is not part of the mask
CLEAR = 18.0  # levels: the mean change inside the mask, at least
TRIES = 60
_FINER = 4

Change = Callable[[Random, Scene], np.ndarray]
"""The changed image, float32 [S, S, 3]."""


def scratch(rng: Random, scene: Scene) -> np.ndarray:
    """A nearly straight, bright or dark stroke with a lip beside it."""
    points = _walk(rng, scene, length=rng.uniform(100, 190), step=10, wander=0.05)
    width = rng.uniform(2.2, 3.6)
    line, lip = _stroke(points, width), _stroke([(x + width * 0.7, y + width * 0.7) for x, y in points], width * 0.7)
    bright = scene.image.mean() < 128 or rng.random() < 0.5
    image = _mixed(scene.image, lip, 30.0 if bright else 225.0, 0.45)
    return _mixed(image, line, 238.0 if bright else 34.0, 0.8)


def stain(rng: Random, scene: Scene) -> np.ndarray:
    """A dark, soft, irregular spot."""
    x, y = _place(rng, scene)
    blob = _blob(rng, x, y, rng.uniform(13, 27), 0.25, soft=4.0)
    tint = np.array(((0.35, 0.28, 0.2), (0.3, 0.3, 0.32), (0.45, 0.3, 0.18))[rng.integers(3)], np.float32)
    tone = (tint - 1) * blob[..., None] * rng.uniform(0.75, 1.0)
    dark = scene.image.mean(axis=-1, keepdims=True) < 60  # on black a stain shows as dried residue
    return np.where(dark, scene.image + 90 * blob[..., None], scene.image * (1 + tone)).astype(np.float32)


def crack(rng: Random, scene: Scene) -> np.ndarray:
    """A jagged dark line with a branch, thinner at its ends."""
    points = _walk(rng, scene, length=rng.uniform(110, 180), step=9, wander=0.55)
    fork = int(rng.integers(len(points) // 3, 2 * len(points) // 3))
    branch = [points[fork]]
    angle = np.arctan2(points[fork + 1][1] - points[fork][1], points[fork + 1][0] - points[fork][0]) + rng.choice((-1, 1)) * rng.uniform(
        0.6, 1.1
    )
    for _ in range(int(rng.integers(4, 8))):
        angle += rng.normal(0, 0.4)
        branch.append((branch[-1][0] + 8 * np.cos(angle), branch[-1][1] + 8 * np.sin(angle)))
    line = np.maximum(_stroke(points, rng.uniform(2.4, 3.4), taper=True), _stroke(branch, 1.8))
    edge = np.clip(np.roll(line, (1, 2), (0, 1)) - line, 0, 1)
    image = _mixed(scene.image, edge, 215.0, 0.5)
    dark = scene.image.mean(axis=-1) < 55
    return np.where(dark[..., None], _mixed(image, line, 150.0, 0.8), _mixed(image, line, 14.0, 0.92))


def contamination(rng: Random, scene: Scene) -> np.ndarray:
    """A foreign particle: a chip of plastic or metal, or a fibre, lying on the piece with its shadow."""
    x, y = _place(rng, scene)
    colour = np.array(((206, 54, 42), (236, 206, 70), (232, 232, 230), (60, 128, 206), (40, 36, 34))[rng.integers(5)], np.float32)
    if rng.random() < 0.35:
        thing = _stroke(_walk(rng, scene, length=rng.uniform(80, 130), step=7, wander=0.35), rng.uniform(3.0, 4.5))
    else:
        thing = _blob(rng, x, y, rng.uniform(10, 19), 0.35, soft=0.8)
    shadow = cv2.GaussianBlur(np.roll(thing, (3, 3), (0, 1)), (0, 0), 1.5)
    image = scene.image * (1 - 0.4 * shadow[..., None])
    lit = colour * (1 + 0.12 * field(rng, 6, SHAPE))[..., None]
    return _mixed(image, thing, lit, 0.95)


def dent(rng: Random, scene: Scene) -> np.ndarray:
    """Pressed in: the surface is drawn together around a point, lighter on one side and darker on the other."""
    x, y = _place(rng, scene)
    columns, rows = grid(SIDE)
    long, short, turn = rng.uniform(22, 36), rng.uniform(18, 26), rng.uniform(0, np.pi)
    dx, dy = columns - x, rows - y
    a, b = (dx * np.cos(turn) + dy * np.sin(turn)) / long, (dy * np.cos(turn) - dx * np.sin(turn)) / short
    depth = np.clip(1 - a * a - b * b, 0, 1) ** 1.5
    pull = 0.55 * depth
    image = cv2.remap(scene.image, (columns - 0.5 + dx * pull).astype(np.float32), (rows - 0.5 + dy * pull).astype(np.float32),
                      cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)  # fmt: skip
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(depth, (0, 0), 2.0))
    facing = (slope_x + slope_y) * 7
    light = np.where(facing > 0, facing * np.maximum(image.mean(axis=-1), 60), facing * image.mean(axis=-1))
    return (image + (np.clip(light, -75, 75) * scene.part)[..., None]).astype(np.float32)


CHANGES: dict[str, Change] = {"scratch": scratch, "stain": stain, "crack": crack, "contamination": contamination, "dent": dent}
KINDS = (*CHANGES, "missing")


def changed(rng: Random, kind: str, scene: Scene, without: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The defective image and its mask, bool [S, S]. `without`: the same piece with something missing."""
    for _ in range(TRIES):
        image = np.clip(without.image if kind == "missing" else CHANGES[kind](rng, scene), 0, 255)
        change = np.abs(image - scene.image).max(axis=-1)
        mask = _mask(change, 13 if kind == "missing" else 5)
        share = mask.mean()
        if SHARES[0] <= share <= SHARES[1] and change[mask].mean() >= CLEAR:
            return np.where(mask[..., None], image, scene.image), mask
        if kind == "missing":
            break
    raise ValueError(f"{kind}: covers {share:.4f} of the picture, changed by {change[mask].mean() if mask.any() else 0:.0f} levels")


def _mask(change: np.ndarray, gap: int) -> np.ndarray:
    """What changed visibly, without specks and with gaps of up to `gap` pixels closed: letters and threads go missing as one."""
    seen = cv2.morphologyEx((change > VISIBLE).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((gap, gap), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(seen, connectivity=8)
    large = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= 12]
    return np.isin(labels, large)


def _place(rng: Random, scene: Scene) -> tuple[float, float]:
    """A point of the part, not at the picture's very edge."""
    inner = scene.part.copy()
    inner[:20], inner[-20:], inner[:, :20], inner[:, -20:] = 0, 0, 0, 0
    rows, columns = np.nonzero(inner)
    chosen = int(rng.integers(len(rows)))
    return float(columns[chosen]), float(rows[chosen])


def _walk(rng: Random, scene: Scene, length: float, step: float, wander: float) -> list[tuple[float, float]]:
    """A path over the part: of several tried, the one that stays on it longest."""
    best: list[tuple[float, float]] = []
    most = -1.0
    for _ in range(24):
        x, y = _place(rng, scene)
        angle, path = rng.uniform(0, 2 * np.pi), [(x, y)]
        for _ in range(int(length / step)):
            angle += rng.normal(0, wander)
            path.append((path[-1][0] + step * np.cos(angle), path[-1][1] + step * np.sin(angle)))
        inside = float(np.mean([_on(scene, *point) for point in path]))
        if inside > most:
            best, most = path, inside
    return [point for point in best if _on(scene, *point)] if most > 0.6 else best


def _on(scene: Scene, x: float, y: float) -> bool:
    return 0 <= x < SIDE and 0 <= y < SIDE and bool(scene.part[int(y), int(x)])


def _stroke(points: list[tuple[float, float]], width: float, taper: bool = False) -> np.ndarray:
    """Float [S, S], 0 to 1."""
    drawn = np.zeros((SIDE * _FINER, SIDE * _FINER), np.uint8)
    whole = np.array(points) * _FINER
    for index, (a, b) in enumerate(zip(whole[:-1], whole[1:], strict=True)):
        thin = 1.0 - 0.55 * abs(2 * index / max(len(whole) - 2, 1) - 1) if taper else 1.0
        cv2.line(drawn, tuple(map(int, a)), tuple(map(int, b)), 255, max(round(width * thin * _FINER), 1), cv2.LINE_AA)
    return cv2.resize(drawn, SHAPE, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _blob(rng: Random, x: float, y: float, radius: float, ragged: float, soft: float) -> np.ndarray:
    """An irregular spot, 0 to 1, whose edge is `soft` pixels wide."""
    columns, rows = grid(SIDE)
    angle, waves = np.arctan2(rows - y, columns - x), rng.uniform(-1, 1, (5, 2))
    edge = radius * (
        1 + ragged * sum((a * np.cos((k + 1) * angle) + b * np.sin((k + 1) * angle)) / (k + 1.5) for k, (a, b) in enumerate(waves))
    )
    return np.clip((edge - np.hypot(columns - x, rows - y)) / soft + 0.5, 0, 1).astype(np.float32)


def _mixed(image: np.ndarray, shape: np.ndarray, colour: float | np.ndarray, strength: float) -> np.ndarray:
    weight = (shape * strength)[..., None]
    return (image + (colour - image) * weight).astype(np.float32)
