"""Drawn parts on backgrounds, with true masks: what SAM's box and point prompts are learnt from."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from .grounds import GROUNDS, light, pattern

OUTLINES = ("rectangle", "rounded", "ellipse", "polygon", "regular", "ring", "frame", "L", "T", "gear", "slot", "cell")
_OFTEN = np.array([3, 2, 2.5, 2, 1, 1.2, 0.6, 0.8, 0.8, 0.8, 0.8, 2.5])
MOST = 3  # parts in a picture


@dataclass(frozen=True)
class Scene:
    pixels: np.ndarray  # uint8 [H, W, 3]
    masks: np.ndarray  # bool [K, H, W]: K parts, none on another
    ground: str  # one of GROUNDS


def _disc(count: int, start: float = 0.0) -> np.ndarray:
    """[count, 2] points of a circle in the square from -0.5 to 0.5."""
    angles = start + np.arange(count) * 2 * np.pi / count
    return np.stack([np.cos(angles), np.sin(angles)], 1) / 2


def _contours(kind: str, rng: np.random.Generator) -> list[np.ndarray]:
    """An outline and its holes, points [n, 2] in the square from -0.5 to 0.5."""
    a, b = rng.uniform(0.2, 0.6, 2) - 0.5
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    if kind in ("ellipse", "ring"):
        return [_disc(72), _disc(72) * rng.uniform(0.25, 0.65) + rng.uniform(-0.06, 0.06, 2)][: 1 + (kind == "ring")]
    if kind == "frame":
        return [square, square * rng.uniform(0.3, 0.7, 2)]
    if kind in ("rounded", "slot"):  # a superellipse of high power; a slot is rounded as far as it goes
        circle, radius = _disc(72), rng.uniform(0.05, 0.2) if kind == "rounded" else 0.25
        return [circle * 2 * radius + np.sign(circle) * (0.5 - radius)]
    if kind == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 10))))
        return [np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.28, 0.5, (len(angles), 1))]
    if kind == "regular":
        return [_disc(int(rng.integers(3, 9)), rng.uniform(0, 6))]
    if kind == "gear":
        teeth, depth = int(rng.integers(6, 16)), rng.uniform(0.75, 0.92)
        rim = _disc(teeth * 4) * np.where(np.arange(teeth * 4) % 4 < 2, 1, depth)[:, None]
        return [rim, _disc(48) * rng.uniform(0.15, 0.45)][: int(rng.integers(1, 3))]
    if kind == "L":
        return [np.array([[-0.5, -0.5], [a, -0.5], [a, -b], [0.5, -b], [0.5, 0.5], [-0.5, 0.5]])]
    if kind == "T":
        half = abs(b) / 2 + 0.02
        return [np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, a], [half, a], [half, 0.5], [-half, 0.5], [-half, a], [-0.5, a]])]
    return [square]


def _place(shape: tuple[int, int], rng: np.random.Generator, alone: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre and size (x, y) in pixels, and the turn in radians."""
    side = min(shape)
    size = rng.uniform(0.12, 0.95 if alone else 0.5) * side * np.array([1, rng.uniform(0.35, 1) if rng.random() < 0.7 else 1])
    if alone and rng.random() < 0.15:  # fills a wide or tall picture
        size = np.array(shape[::-1]) * rng.uniform(0.5, 0.95, 2)
    elif rng.random() < 0.5:
        size = size[::-1]
    straight = rng.random() < 0.5
    room = np.maximum(np.array(shape[::-1]) - (size if straight else np.linalg.norm(size) * 0.85), 0)
    centre = np.array(shape[::-1]) / 2 + rng.uniform(-0.5, 0.5, 2) * room * (1.15 if rng.random() < 0.1 else 0.97)
    return centre, size, 0.0 if straight else rng.uniform(0, np.pi)


def _outline(kind: str, shape: tuple[int, int], rng: np.random.Generator, alone: bool) -> tuple[np.ndarray, np.ndarray]:
    """A part's mask bool [H, W], and the corners float32 [4, 2] of its turned box in pixels."""
    centre, size, turn = _place(shape, rng, alone)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    canvas = np.zeros(shape, np.uint8)
    for hole, contour in enumerate(_contours(kind, rng)):
        points = (contour * size) @ rotation + centre
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], int(hole == 0), shift=4)
    corners = (np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * size) @ rotation + centre
    return canvas > 0, corners.astype(np.float32)


def _surface(kind: str, corners: np.ndarray, shape: tuple[int, int], rng: np.random.Generator, cell: np.ndarray) -> np.ndarray:
    """float32 [H, W] around 0: a real cell laid into the part's box, or a pattern."""
    if kind != "cell":
        return pattern(str(rng.choice(GROUNDS, p=[0.44, *[0.08] * 7])), shape, rng, cell) * np.float32(rng.uniform(0.3, 1))
    side = float(cell.shape[0])
    source = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
    laid = cv2.warpPerspective(cell, cv2.getPerspectiveTransform(source, corners), shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    return (laid - np.float32(cell.mean())) * np.float32(rng.uniform(0.4, 1))


def _tone(rng: np.random.Generator, contrast: float) -> np.ndarray:
    """float32 [3]: a step of `contrast` grey levels, brighter or darker, tinted, or of another colour alone."""
    style = rng.random()
    if style < 0.6:
        step = np.ones(3) + rng.normal(0, 0.12, 3)
    elif style < 0.85:
        step = rng.uniform(-1, 1, 3)
    else:
        step = rng.normal(0, 1, 3)
        step -= step @ (0.299, 0.587, 0.114)  # equally bright
    return (step / np.abs(step).max() * contrast * rng.choice([-1, 1])).astype(np.float32)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> the same without colour."""
    return np.repeat(pixels @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=2)


def _contrast(picture: np.ndarray, surface: np.ndarray, mask: np.ndarray) -> float:
    """The tenth percentile over the part's edge of how far the two differ (largest channel), both smoothed."""
    k = max(3, max(mask.shape) // 40) | 1
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    difference = np.abs(cv2.blur(np.clip(picture, 0, 255), (k, k)) - cv2.blur(np.clip(surface, 0, 255), (k, k))).max(2)
    return float(np.percentile(difference[edge], 10)) if edge.any() else 0.0


def _lay(
    picture: np.ndarray, free: np.ndarray, rng: np.random.Generator, cell: np.ndarray, alone: bool, grey: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The picture float32 [H, W, 3] with one more part, and its mask; None where it found no place or no contrast."""
    shape = free.shape
    kind = str(rng.choice(OUTLINES, p=_OFTEN / _OFTEN.sum()))
    mask, corners = _outline(kind, shape, rng, alone)
    if mask.sum() < 0.008 * max(shape) ** 2 or not free[mask].all():
        return None
    body = _surface(kind, corners, shape, rng, cell)
    least = 15 + 0.6 * float(body[mask].std()) + 0.6 * float(picture[mask].std(axis=0).max())
    contrast = least * float(np.exp(rng.uniform(0.1, 1.9)))
    surface = body[..., None] + picture[mask].mean(0) + _tone(rng, contrast)
    surface = _grey(surface) if grey else surface
    if _contrast(picture, surface, mask) < min(least, 40):
        return None
    if rng.random() < 0.3:  # markings on the part belong to the part
        spot = _outline(str(rng.choice(OUTLINES)), shape, rng, False)[0] & mask
        surface[spot] += np.float32(rng.uniform(-60, 60))
    blur = rng.uniform(0.4, 1.6) * max(shape) / 512 if rng.random() < 0.6 else 0.0
    sharp = mask.astype(np.float32)
    if rng.random() < 0.15:
        shadow = np.roll(cv2.GaussianBlur(sharp, (0, 0), max(shape) / 60), rng.integers(-8, 9, 2), (0, 1))
        picture = picture * (1 - np.float32(rng.uniform(0.1, 0.35)) * shadow[..., None])
    soft = (cv2.GaussianBlur(sharp, (0, 0), blur) if blur else sharp)[..., None]
    return picture * (1 - soft) + surface * soft, mask


def _ground(kind: str, shape: tuple[int, int], rng: np.random.Generator, cell: np.ndarray) -> np.ndarray:
    tone = rng.uniform(5, 250) + rng.normal(0, 30 if rng.random() < 0.4 else 1, 3)
    picture = pattern(kind, shape, rng, cell)[..., None] + tone.astype(np.float32)
    if rng.random() < 0.1:  # scratches and specks that are no part
        for _ in range(int(rng.integers(1, 6))):
            ends = rng.uniform(0, 1, (2, 2)) * shape[::-1]
            colour = tuple(float(v) for v in tone + rng.uniform(-50, 50))
            cv2.line(picture, *(tuple(map(int, end)) for end in ends), colour, max(1, max(shape) // 300), cv2.LINE_AA)
    return picture


def _camera(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3]: light, grey or colour, noise, JPEG."""
    shape = picture.shape[:2]
    picture = np.clip(picture, 0, 255)
    if rng.random() < 0.2:
        picture = picture * light(shape, rng)
    if rng.random() < 0.6:
        channels = 1 if rng.random() < 0.6 else 3
        picture = picture + rng.standard_normal((*shape, channels), np.float32) * np.float32(rng.uniform(0, 12))
    pixels = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(40, 96)))
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
    return pixels


def _shape(rng: np.random.Generator) -> tuple[int, int]:
    """Height and width: 200 to 1200 pixels, square, wide or tall."""
    longest = float(np.exp(rng.uniform(np.log(200), np.log(1200))))
    aspect = 1.0 if rng.random() < 0.25 else float(np.exp(rng.uniform(np.log(0.4), np.log(2.5))))
    return round(longest * min(1, aspect)), round(longest * min(1, 1 / aspect))


def draw_scene(rng: np.random.Generator, cells: list[np.ndarray], ground: str | None = None, most: int = MOST) -> Scene:
    """One to `most` parts that can be told from their ground (by 15 grey levels or more, more where it is grainy).

    Args:
        cells: real pictures uint8 [h, w], for surfaces and backgrounds.
        ground: one of GROUNDS, any where none is named.
    """
    ground = ground or str(rng.choice(GROUNDS))
    shape, count = _shape(rng), min(int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])), most)
    picture, grey = _ground(ground, shape, rng, cells[rng.integers(len(cells))]), bool(rng.random() < 0.4)
    picture = _grey(picture) if grey else picture
    masks: list[np.ndarray] = []
    free = np.ones(shape, bool)
    for _ in range(30 * count):
        laid = _lay(picture, free, rng, cells[rng.integers(len(cells))], count == 1, grey)
        if laid is not None:
            picture, mask = laid
            masks.append(mask)
            gap = np.ones((max(shape) // 50 * 2 + 1,) * 2, np.uint8)
            free &= cv2.dilate(mask.astype(np.uint8), gap) == 0
        if len(masks) == count:
            break
    if not masks:
        return draw_scene(rng, cells, ground, most)
    return Scene(_camera(picture, rng), np.stack(masks), ground)
