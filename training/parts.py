"""Drawn parts on backgrounds, with true masks: what the box and point prompts of the tiny SAM decoder learn from."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Part:
    pixels: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # bool [H, W]


def _texture(shape: tuple[int, int], rng: np.random.Generator, cell: np.ndarray) -> np.ndarray:
    """float32 [H, W, 3]: flat, gradient, noise, stripes or a piece of a real picture, tinted."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    kind = rng.choice(["flat", "gradient", "noise", "stripes", "picture"], p=[0.5, 0.15, 0.15, 0.05, 0.15])
    base = np.full(shape, 0.0, np.float32)
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        base = (np.cos(angle) * x / width + np.sin(angle) * y / height) * rng.uniform(10, 70)
    elif kind == "noise":
        base = cv2.GaussianBlur(rng.normal(0, 1, shape).astype(np.float32), (0, 0), rng.uniform(0.6, 6))
        base *= rng.uniform(5, 25) / (base.std() + 1e-6)
    elif kind == "stripes":
        base = np.sin((x * rng.normal() + y * rng.normal()) * rng.uniform(0.05, 0.5)) * rng.uniform(5, 25)
    elif kind == "picture":
        base = cv2.resize(cell, (width, height)).astype(np.float32)
        base = (base - base.mean()) * rng.uniform(0.5, 1.2)
    tint = rng.uniform(0, 255) + rng.normal(0, 25 if rng.random() < 0.5 else 1, 3)
    return base[..., None] + tint.astype(np.float32)


def _outline(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """bool [H, W]: an ellipse, a rotated (rounded) rectangle, a polygon or a ring."""
    height, width = shape
    side = min(shape)
    centre = (rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height)
    size = rng.uniform(0.25, 0.85, 2) * side
    canvas = np.zeros(shape, np.uint8)
    kind = rng.choice(["ellipse", "rectangle", "rounded", "polygon", "ring"], p=[0.25, 0.25, 0.15, 0.25, 0.1])
    angle = float(rng.choice([0.0, rng.uniform(0, 180)]))
    if kind in ("ellipse", "ring"):
        cv2.ellipse(canvas, (centre, tuple(size), angle), 1, -1)
        if kind == "ring":
            cv2.ellipse(canvas, (centre, tuple(size * rng.uniform(0.3, 0.6)), angle), 0, -1)
    elif kind in ("rectangle", "rounded"):
        corners = cv2.boxPoints((centre, tuple(size), angle))
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], 1)
        if kind == "rounded":
            k = max(3, int(0.15 * size.min())) | 1
            canvas = cv2.morphologyEx(canvas, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k)))
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        ring = np.stack([np.cos(angles) * size[0], np.sin(angles) * size[1]], 1) / 2 * rng.uniform(0.6, 1.2, (len(angles), 1))
        cv2.fillPoly(canvas, [np.round(ring + centre).astype(np.int32)], 1)
    return canvas > 0


def draw_part(rng: np.random.Generator, cell: np.ndarray) -> Part:
    """A part that can be told from its background (mean tones at least 18 apart)."""
    longest = 300
    aspect = rng.uniform(0.6, 1.6)
    shape = (longest, round(longest / aspect)) if aspect > 1 else (round(longest * aspect), longest)
    mask = _outline(shape, rng)
    if mask.mean() < 0.03:
        return draw_part(rng, cell)
    background, surface = _texture(shape, rng, cell), _texture(shape, rng, cell)
    if abs(background[mask].mean() - surface[mask].mean()) < 18:
        return draw_part(rng, cell)
    sharp = mask.astype(np.float32)
    soft = (cv2.GaussianBlur(sharp, (0, 0), rng.uniform(0.4, 1.2)) if rng.random() < 0.6 else sharp)[..., None]
    pixels = background * (1 - soft) + surface * soft
    if rng.random() < 0.3:  # markings on the part belong to the part
        spot = _outline(shape, rng) & mask
        pixels[spot] += rng.uniform(-40, 40)
    if rng.random() < 0.5:  # the other half is as clean as a drawing or a synthetic test picture
        pixels += rng.normal(0, rng.uniform(0, 5), pixels.shape)
    return Part(np.clip(pixels, 0, 255).astype(np.uint8), mask)
