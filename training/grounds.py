"""Patterns of backgrounds and of surfaces: what parts lie on, and what they are made of."""

from __future__ import annotations

import cv2
import numpy as np

GROUNDS = ("flat", "gradient", "fine grain", "coarse grain", "stripes", "checker", "blobs", "cell")


def pattern(kind: str, shape: tuple[int, int], rng: np.random.Generator, cell: np.ndarray) -> np.ndarray:
    """float32 [H, W], grey levels around a mean of 0; `cell`: uint8 [h, w], of which kind "cell" takes a piece."""
    if kind == "flat":
        return np.zeros(shape, np.float32)
    if kind in ("gradient", "stripes", "checker"):
        return _regular(kind, shape, rng)
    if kind == "cell":
        return _piece(shape, rng, cell)
    if kind == "fine grain":
        return rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(3, 22))
    scales = [rng.uniform(3, 10)] if kind == "coarse grain" else [rng.uniform(0.08, 0.4) * max(shape), rng.uniform(6, 25)]
    noise = sum(_smooth_noise(shape, scale, rng) for scale in scales)
    return noise * np.float32(rng.uniform(4, 20) / (noise.std() + 1e-6))


def _smooth_noise(shape: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    small = rng.standard_normal((int(shape[0] / scale) + 3, int(shape[1] / scale) + 3), np.float32)
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _regular(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A ramp, waves or squares, turned by any angle."""
    angle = float(rng.choice([0, np.pi / 2, rng.uniform(0, 2 * np.pi)], p=[0.2, 0.2, 0.6]))
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    across, along = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    if kind == "gradient":
        return (across - across.mean()) * np.float32(rng.uniform(15, 120) / np.ptp(across))
    turn = np.float32(2 * np.pi / (rng.uniform(0.02, 0.2) * max(shape)))
    wave = np.sin(across * turn + rng.uniform(0, 6))
    if kind == "checker":
        wave = np.sign(wave) * np.sign(np.sin(along * turn + rng.uniform(0, 6)))
    elif rng.random() < 0.5:
        wave = np.sign(wave)
    return wave * np.float32(rng.uniform(3, 22))


def _piece(shape: tuple[int, int], rng: np.random.Generator, cell: np.ndarray) -> np.ndarray:
    """A piece of a real picture, stretched over the whole shape."""
    size = rng.integers(90, min(cell.shape) + 1, 2)
    top, left = (int(rng.integers(0, cell.shape[axis] - size[axis] + 1)) for axis in (0, 1))
    piece = cell[top : top + size[0], left : left + size[1]].astype(np.float32)
    wide = cv2.resize(piece, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return (wide - wide.mean()) * np.float32(rng.uniform(0.3, 0.9))


def light(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Brightness float32 [H, W, 1] around 1: a vignette, or light from one side."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    if rng.random() < 0.5:
        fall = (x - rng.uniform(-0.4, 0.4)) ** 2 + (y - rng.uniform(-0.4, 0.4)) ** 2
        return (1 - np.float32(rng.uniform(0.05, 0.25)) * fall)[..., None]
    angle = rng.uniform(0, 2 * np.pi)
    return (1 + np.float32(rng.uniform(0.05, 0.25)) * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y))[..., None]
