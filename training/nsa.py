"""Defects made of normal pictures: patches of one blended into another (NSA, Schlüter et al., arXiv 2109.15222).

Sizes, counts and labels are AnomalyGPT's (arXiv 2308.15366). Blending is Pérez' (2003), by OpenCV. What Poisson blending changes is
often invisible, and a label that nobody could see teaches nothing: only what changed enough to be seen is labelled, and patches are
drawn again until something is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SMALLEST, LARGEST = 0.03, 0.4  # half-widths, as shares of the picture
GAMMA_SHAPE, GAMMA_SCALE = 2.0, 0.05
RESIZE_DEVIATION = 0.5
SECOND = 0.5  # chance of a second patch
OVERLAP = 0.25
TRIES = 40
VISIBLE = 1 / 1000  # of the picture, at least this much must change


@dataclass(frozen=True)
class Rules:
    """What differs between objects on a plain background and textures. `label`: slope and middle of the logistic of intensity."""

    resize: tuple[float, float]
    label: tuple[float, float]


OBJECT, TEXTURE = Rules((0.7, 1.3), (1 / 12, 24.0)), Rules((0.5, 2.0), (1 / 3, 7.0))


@dataclass(frozen=True)
class Normal:
    """A normal picture and where its object is: uint8 [H, W, 3], bool [H, W] (True everywhere for a texture)."""

    pixels: np.ndarray
    foreground: np.ndarray


def foreground(pixels: np.ndarray) -> np.ndarray | None:
    """The object on a plain background, bool [H, W]; None where the picture has no such background.

    The border says what the background is: nearly all of it must have one tone, and the middle another one.
    """
    height, width = pixels.shape[:2]
    rim = max(2, round(0.03 * min(height, width)))
    smooth = cv2.GaussianBlur(pixels, (0, 0), 1.5).astype(np.float32)
    border = np.concatenate([part.reshape(-1, 3) for part in (smooth[:rim], smooth[-rim:], smooth[:, :rim], smooth[:, -rim:])])
    tone = np.median(border, axis=0)
    tolerance = max(14.0, 6 * float(np.median(np.abs(border - tone))))
    if tolerance > 50 or (np.abs(border - tone).max(1) <= tolerance).mean() < 0.8:
        return None
    differs = (np.abs(smooth - tone).max(2) > tolerance).astype(np.uint8)
    closed = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8))
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(closed)
    cv2.drawContours(filled, [contour for contour in contours if cv2.contourArea(contour) > 0.005 * height * width], -1, 1, cv2.FILLED)
    inside = filled[height // 4 : -height // 4, width // 4 : -width // 4].mean()
    return filled.astype(bool) if 0.04 <= filled.mean() <= 0.92 and inside > 0.1 else None


def normals(pictures: Sequence[np.ndarray]) -> tuple[list[Normal], Rules]:
    """The pictures of one class with their foregrounds: an object where most of them have a plain background."""
    found = [foreground(pixels) for pixels in pictures]
    whole = [np.ones(pixels.shape[:2], bool) for pixels in pictures]
    if 2 * sum(mask is not None for mask in found) <= len(found):
        return [Normal(pixels, mask) for pixels, mask in zip(pictures, whole, strict=True)], TEXTURE
    masks = [own if mask is None else mask for mask, own in zip(found, whole, strict=True)]
    return [Normal(pixels, mask) for pixels, mask in zip(pictures, masks, strict=True)], OBJECT


def half_width(rng: np.random.Generator) -> float:
    """As a share of the picture's side."""
    return float(np.clip(SMALLEST + rng.gamma(GAMMA_SHAPE, GAMMA_SCALE), SMALLEST, LARGEST))


def cut(source: Normal, rules: Rules, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """A resized patch of a normal picture, uint8 [h, w, 3], and its foreground; None where it shows mostly background."""
    shape = np.array(source.foreground.shape)
    half = np.maximum(4, np.array([half_width(rng), half_width(rng)]) * shape).astype(int)
    centre = rng.integers(half, np.maximum(half + 1, shape - half))
    (top, left), (bottom, right) = np.maximum(centre - half, 0), np.minimum(centre + half, shape)
    patch, mask = source.pixels[top:bottom, left:right], source.foreground[top:bottom, left:right]
    if mask.mean() < OVERLAP:
        return None
    scale = float(np.clip(rng.normal(1, RESIZE_DEVIATION), *rules.resize))
    size = tuple(int(max(8, scale * side)) for side in mask.shape[::-1])
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(patch, size, interpolation=cv2.INTER_AREA), small > 0


def blend(target: Normal, patch: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The target with the patch blended in somewhere; None where the place does not show enough of both objects."""
    height, width = target.foreground.shape
    patch, mask = patch[: height - 4, : width - 4], mask[: height - 4, : width - 4]
    top, left = (int(rng.integers(1, side - extent - 1)) for side, extent in zip((height, width), mask.shape, strict=True))
    window = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
    below = target.foreground[window]
    if (mask & below).mean() < OVERLAP:
        return None
    region = (mask | below).astype(np.uint8) * 255
    x, y, w, h = cv2.boundingRect(region)
    source, region = patch[y : y + h, x : x + w], region[y : y + h, x : x + w]
    centre = left + x + w // 2, top + y + h // 2  # OpenCV puts the middle of the region's bounding box there
    return cv2.seamlessClone(np.ascontiguousarray(source), target.pixels, region, centre, cv2.NORMAL_CLONE)


def label(before: np.ndarray, after: np.ndarray, rules: Rules) -> np.ndarray:
    """Logistic of the change of intensity, float32 [H, W] in 0..1."""
    change = np.abs(after.astype(np.float32) - before.astype(np.float32)).mean(2)
    slope, middle = rules.label
    return 1 / (1 + np.exp(-slope * (cv2.medianBlur(change, 5) - middle)))


def mask_of(before: np.ndarray, after: np.ndarray, rules: Rules) -> np.ndarray:
    """What can be seen to have changed, bool [H, W], without specks."""
    seen = (label(before, after, rules) >= 0.5).astype(np.uint8)
    closed = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    return cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def patched(target: Normal, others: Sequence[Normal], rules: Rules, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """One or two patches of other normal pictures in a normal one: uint8 [H, W, 3] and what changed, bool [H, W].

    None where no patch could be seen: the pictures are all alike, and plain.
    """
    wanted, after = 1 + int(rng.random() < SECOND), target.pixels
    seen = np.zeros(target.foreground.shape, bool)
    for _ in range(TRIES):
        found = cut(others[rng.integers(len(others))], rules, rng)
        made = blend(Normal(after, target.foreground), *found, rng) if found else None
        if made is None:
            continue
        mask = mask_of(target.pixels, made, rules)
        if (mask & ~seen).mean() < VISIBLE:
            continue
        after, seen, wanted = made, mask, wanted - 1
        if not wanted:
            break
    return (after, seen) if seen.any() else None
