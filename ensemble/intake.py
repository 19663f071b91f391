"""The first step: from the public inputs to pixels in SAM's frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from . import validate
from .contract import PART_SIDE
from .errors import RequestError, invalid
from .picture import Window, clip_box, crop, decode, sam_pixels, sam_size, window_of
from .steps import as_bytes
from .store import Store


def take_in(inputs: Mapping[str, np.ndarray], wanted: frozenset[str], side: int, store: Store) -> dict[str, np.ndarray]:
    """Check every input, decode the picture, and bring it, the box and the points into SAM's frame.

    Args:
        inputs: the public inputs that are given.
        wanted: names of the outputs to compute.
        side: S, the side of SAM's square input.
        store: the products; one that has a box of its own lends it to requests without BOX.
    Returns:
        sam_pixels, resized_size, original_size, part_box, point_coords, point_labels, and part_pixels or pixels if wanted.
    """
    validate.request(inputs)
    own_box = store.recipe(validate.product_name(inputs["PRODUCT"], "PRODUCT")).box if "PRODUCT" in inputs else None
    image = decode(as_bytes(inputs.get("IMAGE")) or b"", "IMAGE")
    part_box = _part_box(inputs.get("BOX"), own_box, image)
    points = validate.points(inputs.get("POINTS"), image.height, image.width)
    if "pixels" in wanted and not len(part_box) and not len(points):
        prompt_box = np.array([[0, 0, image.width, image.height]], np.float32)  # `segment` of nothing in particular: the whole picture
    else:
        prompt_box = part_box
    window = window_of(part_box, image.height, image.width)
    outputs = {
        "sam_pixels": sam_pixels(image, side),
        "resized_size": np.array([sam_size(image.height, image.width, side)], np.int32),
        "original_size": np.array([image.height, image.width], np.int32),
        "part_box": part_box,
        **sam_prompt(prompt_box, points, image.height, image.width, side),
    }
    return outputs | _crops(image, window, wanted)


def sam_prompt(box: np.ndarray, points: np.ndarray, height: int, width: int, side: int) -> dict[str, np.ndarray]:
    """point_coords float32 [1, 1, n, 2] and point_labels [1, 1, n], one prompt for SAM's decoder: points, then the box's corners (2, 3).

    Without a box SAM expects one padding point (label -1); without anything there are two of them.
    """
    corners = np.concatenate([box.reshape(-1, 2, 2)[0], [[2], [3]]], axis=1) if len(box) else np.array([[0, 0, -1]], np.float32)
    rows = np.concatenate([points, corners])
    if not len(box) and not len(points):
        rows = np.repeat(corners, 2, axis=0)
    new_height, new_width = sam_size(height, width, side)
    coords = rows[:, :2] * (new_width / width, new_height / height)
    return {"point_coords": coords[None, None].astype(np.float32), "point_labels": rows[None, None, :, 2].astype(np.float32)}


def _part_box(given: np.ndarray | None, own: tuple[float, ...] | None, image: Image.Image) -> np.ndarray:
    """float32 [1, 4], or [0, 4] where neither the request nor its product has a box."""
    if given is not None:
        return clip_box(given, image.height, image.width, "BOX")[None]
    if own is None:
        return np.zeros((0, 4), np.float32)
    try:
        return clip_box(np.array(own), image.height, image.width, "BOX")[None]
    except RequestError:
        raise invalid("PRODUCT", "its box lies outside of this picture, expected a picture like the enrolled ones, or a BOX") from None


def _crops(image: Image.Image, window: Window, wanted: frozenset[str]) -> dict[str, np.ndarray]:
    found = {}
    if "part_pixels" in wanted:
        found["part_pixels"] = crop(image, window, PART_SIDE)
    if "pixels" in wanted:
        found["pixels"] = crop(image, window)
    return found
