"""What the drawn products share: fields of noise, shapes with smooth edges, and how a camera sees a scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

SIDE = 320  # of a finished picture
FINE = 640  # of the canvas it is drawn on
Colour = tuple[float, float, float]
Random = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """A product before the camera: image float32 [S, S, 3] of 0 to 255; part uint8 [S, S], 1 where a defect may lie."""

    image: np.ndarray
    part: np.ndarray


Product = Callable[[Random, bool], Scene]
"""Draws one piece on the fine canvas. The flag: something that belongs to it is missing; the random numbers drawn are the same."""


def ground(colour: Colour) -> np.ndarray:
    return np.full((FINE, FINE, 3), colour, np.float32)


def field(rng: Random, scale: float, shape: tuple[int, int] = (FINE, FINE)) -> np.ndarray:
    """Smooth noise float32 of about unit deviation; `scale`: pixels from hill to hill."""
    rows, columns = (max(int(round(side / scale)) + 3, 4) for side in shape)
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    large = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return large / max(float(large.std()), 1e-6)


@cache
def grid(side: int = FINE) -> tuple[np.ndarray, np.ndarray]:
    """x and y of each pixel's centre, float32 [S, S]."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return x + 0.5, y + 0.5


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """Float [S, S], 1 inside, with an edge of one pixel."""
    return box(x - radius, y - radius, x + radius, y + radius, radius)


def box(x0: float, y0: float, x1: float, y1: float, round_by: float = 0.0) -> np.ndarray:
    """A rectangle with round corners, as `disc`."""
    found = np.zeros((FINE, FINE), np.float32)
    window = slice(max(int(y0) - 1, 0), max(int(y1) + 2, 0)), slice(max(int(x0) - 1, 0), max(int(x1) + 2, 0))
    columns, rows = (axis[window] for axis in grid())
    beyond_x = np.abs(columns - (x0 + x1) / 2) - (x1 - x0) / 2 + round_by
    beyond_y = np.abs(rows - (y0 + y1) / 2) - (y1 - y0) / 2 + round_by
    distance = np.hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0)) + np.minimum(np.maximum(beyond_x, beyond_y), 0)
    found[window] = np.clip(round_by + 0.5 - distance, 0, 1)
    return found


def polygon(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """A filled polygon, as `disc`."""
    drawn = np.zeros((FINE, FINE), np.uint8)
    cv2.fillPoly(drawn, [np.round(np.array(points) * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    return drawn.astype(np.float32) / 255


def lines(paths: Sequence[Sequence[tuple[float, float]]], width: int) -> np.ndarray:
    """Strokes, as `disc`."""
    drawn = np.zeros((FINE, FINE), np.uint8)
    for path in paths:
        cv2.polylines(drawn, [np.round(np.array(path) * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, shift=4)
    return drawn.astype(np.float32) / 255


def paint(image: np.ndarray, shape: np.ndarray, colour: Colour | np.ndarray, strength: float = 1.0) -> None:
    """Colours the shape (0 to 1) in place. `colour`: one, or float [S, S, 3]."""
    window = _around(shape)
    tone = np.asarray(colour, np.float32)
    tone = tone if tone.ndim == 1 else tone[window]
    image[window] += (tone - image[window]) * (shape[window] * strength)[..., None]


def shade(image: np.ndarray, amount: np.ndarray) -> None:
    """Makes lighter (> 0) or darker in place, relative to the tone."""
    window = _around(amount)
    image[window] *= 1 + amount[window][..., None]


def _around(shape: np.ndarray) -> tuple[slice, slice]:
    """Where a shape is not 0: most are small."""
    x, y, width, height = cv2.boundingRect((shape != 0).astype(np.uint8))
    return slice(y, y + height), slice(x, x + width)


def blurred(shape: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(shape.astype(np.float32), (0, 0), sigma)


@dataclass(frozen=True)
class Camera:
    """How a piece lies and is seen: no two pictures of a line are alike even where the pieces are."""

    matrix: np.ndarray
    light: np.ndarray  # float32 [S, S, 1]
    noise: np.ndarray  # float32 [S, S, 3]

    @staticmethod
    def drawn(rng: Random) -> Camera:
        """Shifted by up to 2 %, turned by up to 1.5 degrees, light from one side (up to 8 %), noise of a sensor."""
        turn, scale = rng.uniform(-1.5, 1.5), rng.uniform(0.99, 1.01)
        matrix = cv2.getRotationMatrix2D((FINE / 2, FINE / 2), turn, scale)
        matrix[:, 2] += rng.uniform(-0.02, 0.02, 2) * FINE
        x, y = (axis / SIDE - 0.5 for axis in grid(SIDE))
        angle, slope, level = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.16), rng.uniform(0.96, 1.04)
        light = level * (1 + slope * (np.cos(angle) * x + np.sin(angle) * y) - 0.12 * (x * x + y * y))
        grain = rng.normal(0, rng.uniform(1.5, 3.0), (SIDE, SIDE, 1)) + rng.normal(0, 0.8, (SIDE, SIDE, 3))
        return Camera(matrix, light[..., None].astype(np.float32), grain.astype(np.float32))

    def placed(self, scene: Scene) -> Scene:
        """The scene as it lies before the lens, at the picture's size."""
        moved = cv2.warpAffine(scene.image, self.matrix, (FINE, FINE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        part = cv2.warpAffine(scene.part, self.matrix, (FINE, FINE), flags=cv2.INTER_NEAREST)
        image = cv2.resize(moved.clip(0, 255), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return Scene(image, cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST))

    def taken(self, image: np.ndarray) -> np.ndarray:
        """The picture, uint8 [S, S, 3]."""
        seen = cv2.GaussianBlur(image, (0, 0), 0.6)
        return np.clip(seen * self.light + self.noise, 0, 255).round().astype(np.uint8)
