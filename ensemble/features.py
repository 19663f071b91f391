"""Patch features of normal pictures (references, enrolment), through the same code and the same engine steps as serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from . import cutout
from .contract import PART_SIDE
from .intake import sam_prompt
from .picture import clip_box, crop, sam_pixels, sam_size, window_of

Call = Callable[[str, Mapping[str, np.ndarray], list[str]], dict[str, np.ndarray]]
"""model, inputs, output names -> outputs."""

_SHIFT = 0.04  # of the side


def part_of(image: Image.Image, box: np.ndarray | None, side: int, call: Call, name: str) -> np.ndarray:
    """uint8 [h, w, 3]: the picture, or with a box [4] the part in it without background. `name` is the input's, for errors."""
    if box is None:
        return crop(image, (0, 0, image.width, image.height), PART_SIDE)
    part_box = clip_box(box, image.height, image.width, name)[None]
    window = window_of(part_box, image.height, image.width)
    resized = np.array([sam_size(image.height, image.width, side)], np.int32)
    embedding = call("sam_encoder", {"sam_pixels": sam_pixels(image, side), "resized_size": resized}, ["image_embedding"])
    nothing = np.zeros((0, 3), np.float32)
    found = call("sam_decoder", embedding | sam_prompt(part_box, nothing, image.height, image.width, side), ["low_res_masks"])
    pixels = crop(image, window, PART_SIDE)
    size = tuple(resized[0].tolist())
    mask = cutout.part_mask(found["low_res_masks"][0, 0], size, (image.height, image.width), window, pixels.shape[:2])
    return cutout.without_background(pixels, mask)


def patches_of(part: np.ndarray, dims: Mapping[str, Any], call: Call) -> np.ndarray:
    """float32 [P, D] of a part, uint8 [h, w, 3]."""
    found = call("vision_encoder", {"vision_pixels": cutout.vision_pixels(part, dims)}, ["patch_features"])
    return found["patch_features"][0]


def turned_copies(part: np.ndarray, augment: str) -> list[np.ndarray]:
    """Copies that are as normal as the part, by the caller's word: mirrored, or turned by quarters."""
    if augment == "none":
        return []
    copies = (part[:, ::-1], part[::-1], part[::-1, ::-1]) if augment == "flips" else (np.rot90(part, turns) for turns in (1, 2, 3))
    return [np.ascontiguousarray(copy) for copy in copies]


def changed_copies(part: np.ndarray) -> list[np.ndarray]:
    """Shifted, mirrored, turned and slightly brighter or darker copies: how much a normal part may differ from itself."""
    rows, columns = max(round(part.shape[0] * _SHIFT), 1), max(round(part.shape[1] * _SHIFT), 1)
    padded = np.pad(part, ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    height, width = part.shape[:2]
    shifts = [padded[y : y + height, x : x + width] for y, x in ((0, columns), (2 * rows, columns), (rows, 0), (rows, 2 * columns))]
    tones = [(part * factor).clip(0, 255).astype(np.uint8) for factor in (0.9, 1.1)]
    return [np.ascontiguousarray(copy) for copy in (*shifts, *tones, part[:, ::-1], part[::-1], part[::-1, ::-1])]
