"""Drawn blemishes that any product may have, scratches and spots, and the mix of them with NSA's patches.

Patches of normal pictures teach that something is out of place; what is dark, bright or coloured as no normal picture is they cannot show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from sightline_training.nsa import Normal, Rules, patched
from sightline_training.simulate import strokes, walk

KINDS = ("patch", "scratch", "spot")
SHARES = (0.5, 0.25, 0.25)
FAINTEST = 6  # grey levels that a pixel must change by to count


@dataclass(frozen=True)
class Made:
    """A picture with defects: uint8 [H, W, 3]; masks bool [kinds, H, W]."""

    pixels: np.ndarray
    masks: np.ndarray


def _tint(rng: np.random.Generator) -> np.ndarray:
    """Change of red, green and blue at full coverage: mostly one tone, darker or brighter, sometimes coloured."""
    strength = np.exp(rng.uniform(np.log(18), np.log(110))) * rng.choice([-1, 1])
    return (strength * (1 + (rng.normal(0, 0.5, 3) if rng.random() < 0.4 else 0))).astype(np.float32) * np.ones(3, np.float32)


def _somewhere(foreground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x, y of a pixel of the object."""
    places = np.argwhere(foreground)
    return places[rng.integers(len(places))][::-1].astype(np.float64)


def scratch(shape: tuple[int, int], centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coverage 0..1 of one nearly straight line, or of a few side by side."""
    size, angle = max(shape), rng.uniform(0, 2 * np.pi)
    length, width = rng.uniform(0.04, 0.35) * size, rng.uniform(0.0025, 0.012) * size
    lines = []
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        start = centre - 0.5 * length * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.012 * size, 2)
        lines.append(walk(rng, start, angle + rng.normal(0, 0.05), length * rng.uniform(0.6, 1)))
    return cv2.GaussianBlur(strokes(shape, lines, width), (0, 0), rng.uniform(0.5, 1.2))


def spot(shape: tuple[int, int], centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coverage 0..1 of one blob with an uneven outline, or of a few small ones near each other."""
    count = int(rng.choice([1, 1, 2, 5]))
    canvas = np.zeros(shape, np.uint8)
    for _ in range(count):
        radius = np.exp(rng.uniform(np.log(0.008), np.log(0.07))) * max(shape) / count**0.5
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        waves = sum(rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 6)) for k in (2, 3, 4))
        stretch = np.array([1.0, rng.uniform(0.5, 1)])
        outline = centre + radius * np.maximum(0.3, 1 + waves)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1) * stretch
        cv2.fillPoly(canvas, [np.round(outline + (rng.normal(0, 0.04, 2) * max(shape) if count > 1 else 0)).astype(np.int32)], 255)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), rng.uniform(0.6, 2.5))


DRAWERS = {"scratch": scratch, "spot": spot}


def drawn(target: Normal, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One scratch or spot on the object: uint8 [H, W, 3] and what changed, bool [H, W]."""
    while True:
        shape = target.foreground.shape
        coverage = DRAWERS[kind](shape, _somewhere(target.foreground, rng), rng) * cv2.blur(target.foreground.astype(np.float32), (3, 3))
        change = coverage[..., None] * _tint(rng)
        after = np.clip(target.pixels + change, 0, 255).astype(np.uint8)
        mask = np.abs(after.astype(np.int16) - target.pixels).max(2) >= FAINTEST
        if mask.sum() >= max(16, 2e-4 * mask.size):
            return after, mask


def blemish(target: Normal, others: Sequence[Normal], rules: Rules, rng: np.random.Generator) -> Made:
    """Defects of one kind on a normal picture; `others`: normal pictures of the same class."""
    kind, found = str(rng.choice(KINDS, p=SHARES)), None
    if kind == "patch" and (found := patched(target, others, rules, rng)) is None:
        kind = "spot"
    after, mask = found or drawn(target, kind, rng)
    masks = np.zeros((len(KINDS), *mask.shape), bool)
    masks[KINDS.index(kind)] = mask
    return Made(after, masks)


def varied(normal: Normal, rng: np.random.Generator) -> Normal:
    """The picture a little turned, shifted, brighter or darker, as the next part on the line would look."""
    height, width = normal.foreground.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-3, 3), rng.uniform(0.98, 1.02))
    turn[:, 2] += rng.uniform(-0.02, 0.02, 2) * (width, height)
    moved = cv2.warpAffine(normal.pixels, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    whole = normal.foreground.astype(np.float32)
    mask = cv2.warpAffine(whole, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    lit = moved.astype(np.float32) * rng.uniform(0.94, 1.06) + rng.normal(0, rng.uniform(0, 1.5), moved.shape)
    return Normal(np.clip(lit, 0, 255).astype(np.uint8), mask >= 0.5)
