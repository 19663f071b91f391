"""Patch features of normal pictures (references, enrolment), through the same code and the same engine steps as serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

from . import cutout
from .contract import MODELS, PART_SIDE
from .intake import sam_prompt
from .picture import clip_box, crop, sam_pixels, sam_size, window_of

Call = Callable[[str, Mapping[str, np.ndarray], list[str]], dict[str, np.ndarray]]
"""model, inputs, output names -> outputs."""

_SHIFT = 0.04  # of the side
_DEGREES, _NOISE = 2.0, 4.0  # grey levels


def part_of(image: Image.Image, box: np.ndarray | None, side: int, call: Call, name: str) -> np.ndarray:
    """uint8 [h, w, 3]: the picture, or with a box [4] the part in it without background. `name` is the input's, for errors."""
    if box is None:
        return crop(image, (0, 0, image.width, image.height), PART_SIDE)
    part_box = clip_box(box, image.height, image.width, name)[None]
    window = window_of(part_box, image.height, image.width)
    resized = np.array([sam_size(image.height, image.width, side)], np.int32)
    encoded = call("sam_encoder", {"sam_pixels": sam_pixels(image, side), "resized_size": resized}, _all_of("sam_encoder"))
    embedding = {"image_embedding": encoded["image_embedding"]}  # the cache may hold more than was asked for: the step's clock
    nothing = np.zeros((0, 3), np.float32)
    found = call("sam_decoder", embedding | sam_prompt(part_box, nothing, image.height, image.width, side), _all_of("sam_decoder"))
    pixels = crop(image, window, PART_SIDE)
    size = tuple(resized[0].tolist())
    mask = cutout.part_mask(found["low_res_masks"][0, 0], size, (image.height, image.width), window, pixels.shape[:2])
    return cutout.without_background(pixels, mask)


def patches_of(part: np.ndarray, dims: Mapping[str, Any], call: Call) -> np.ndarray:
    """float32 [P, D] of a part, uint8 [h, w, 3]."""
    found = call("vision_encoder", {"vision_pixels": cutout.vision_pixels(part, dims)}, _all_of("vision_encoder"))
    return found["patch_features"][0]


def _all_of(model: str) -> list[str]:
    """Every output, also those not needed here: Triton's response cache keeps what was asked for, and gives it to whoever comes next
    with the same inputs, so that an inspection of this picture would find no picture tokens."""
    return [tensor.name for tensor in MODELS[model].outputs]


def turned_copies(part: np.ndarray, augment: str) -> list[np.ndarray]:
    """Copies that are as normal as the part, by the caller's word: mirrored, or turned by quarters."""
    if augment == "none":
        return []
    copies = (part[:, ::-1], part[::-1], part[::-1, ::-1]) if augment == "flips" else (np.rot90(part, turns) for turns in (1, 2, 3))
    return [np.ascontiguousarray(copy) for copy in copies]


def changed_copies(part: np.ndarray) -> list[np.ndarray]:
    """Copies a little nearer to a corner, turned by two degrees, noisy, mirrored: how much a normal part may differ from itself.

    Nothing is drawn that the picture does not hold: an edge that was filled up would look like a defect.
    """
    height, width = part.shape[:2]
    rows, columns = round(height * _SHIFT), round(width * _SHIFT)
    corners = [(y, x) for y in (0, rows) for x in (0, columns)]
    copies = [_resized(part[y : y + height - rows, x : x + width - columns], height, width) for y, x in corners]
    turns = (cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1 + _SHIFT) for angle in (-_DEGREES, _DEGREES))
    copies += [cv2.warpAffine(part, turn, (width, height), borderMode=cv2.BORDER_REFLECT) for turn in turns]
    rng = np.random.default_rng(0)
    copies += [(part + rng.normal(0, _NOISE, part.shape)).clip(0, 255).astype(np.uint8) for _ in range(2)]
    return copies + turned_copies(part, "flips")


def _resized(part: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC)
