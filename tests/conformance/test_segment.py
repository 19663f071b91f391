"""`segment`: SAM alone, by box, by points, by nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from .helpers import INVALID, ask, drawn, encode, iou, refuse

BOX = (120, 60, 290, 210)
SIZE = (300, 400)


def cutout(answer) -> np.ndarray:
    image = Image.open(io.BytesIO(answer.outputs["CUTOUT"].item()))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return drawn(*SIZE, BOX, 60, 180)


@pytest.fixture(scope="module")
def boxed(grpc, picture):
    return ask(grpc, "segment", IMAGE=encode(picture), BOX=[110.0, 50.0, 300.0, 220.0])


def truth() -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    return mask


def test_types_and_shapes(boxed):
    assert set(boxed.outputs) == {"MASK", "IOU", "CUTOUT"}
    assert boxed.mask.dtype == np.uint8 and boxed.mask.shape == SIZE and set(np.unique(boxed.mask)) <= {0, 1}
    assert boxed.outputs["IOU"].dtype == np.float32 and boxed.outputs["IOU"].shape == (1,)
    assert 0 < boxed.outputs["IOU"].item() <= 1


def test_box_finds_the_part(boxed):
    assert iou(boxed.mask, truth()) >= 0.8


@pytest.mark.parametrize(("part", "ground", "fill"), [(200, 90, 0), (40, 140, 255)])
def test_cutout_is_cropped_to_the_box_and_filled_with_what_contrasts(grpc, part, ground, fill):
    pixels = drawn(*SIZE, BOX, part, ground)
    answer = ask(grpc, "segment", IMAGE=encode(pixels), BOX=[100.0, 40.0, 310.0, 230.0])
    cut, kept = cutout(answer), answer.mask[40:230, 100:310] > 0
    assert cut.shape == (190, 210, 3) and kept.any() and not kept.all()
    assert np.array_equal(cut[kept], pixels[40:230, 100:310][kept]) and (cut[~kept] == fill).all()


def test_nothing_outside_of_the_box_is_kept(boxed):
    outside = boxed.mask.copy()
    outside[50:220, 110:300] = 0
    assert not outside.any()


def test_points_find_the_part(grpc, picture):
    inside, outside = [(205.0, 135.0, 1.0), (170.0, 100.0, 1.0)], [(30.0, 30.0, 0.0), (370.0, 270.0, 0.0)]
    answer = ask(grpc, "segment", IMAGE=encode(picture), POINTS=[*inside, *outside])
    assert answer.mask.shape == SIZE and cutout(answer).ndim == 3
    assert iou(answer.mask, truth()) >= 0.5


def test_labels_of_points_matter(grpc, picture):
    """Fore- and background reach the decoder as such; how well a profile tells them apart is a figure, not the contract's."""
    image = encode(picture)
    part = ask(grpc, "segment", IMAGE=image, POINTS=[(205.0, 135.0, 1.0), (30.0, 30.0, 0.0)]).outputs
    ground = ask(grpc, "segment", IMAGE=image, POINTS=[(205.0, 135.0, 0.0), (30.0, 30.0, 1.0)]).outputs
    assert part["IOU"].item() != ground["IOU"].item() or not np.array_equal(part["MASK"], ground["MASK"])


def test_points_and_box_together(grpc, picture):
    answer = ask(grpc, "segment", IMAGE=encode(picture), BOX=[110.0, 50.0, 300.0, 220.0], POINTS=[(205.0, 135.0, 1.0)])
    assert iou(answer.mask, truth()) >= 0.7 and cutout(answer).shape == (170, 190, 3)


def test_neither_box_nor_points(grpc, picture):
    answer = ask(grpc, "segment", IMAGE=encode(picture))
    assert answer.mask.shape == SIZE and answer.mask.any() and cutout(answer).shape == (*SIZE, 3)


@pytest.mark.parametrize("name", ["MASK", "IOU", "CUTOUT"])
def test_one_output_alone(grpc, picture, boxed, name):
    answer = ask(grpc, "segment", outputs=(name,), IMAGE=encode(picture), BOX=[110.0, 50.0, 300.0, 220.0])
    assert list(answer.outputs) == [name]
    if name == "MASK":
        assert iou(answer.mask, boxed.mask) >= 0.99


def test_errors(grpc, picture):
    image = encode(picture)
    refuse(grpc, INVALID, "IMAGE", "expected", model="segment", IMAGE=b"")
    for box in ([5.0, 5.0, 5.0, 9.0], [np.nan, 0.0, 9.0, 9.0], [500.0, 0.0, 600.0, 90.0]):
        refuse(grpc, INVALID, "BOX", "expected", model="segment", IMAGE=image, BOX=box)
    for points in ([(5.0, 5.0, 2.0)], [(np.inf, 5.0, 1.0)], [(-50.0, 5.0, 1.0)], [(5.0, 5.0, 0.5)], np.zeros((0, 3), np.float32)):
        refuse(grpc, INVALID, "POINTS", "expected", model="segment", IMAGE=image, POINTS=points)
    refuse(grpc, INVALID, "POINTS", model="segment", IMAGE=image, POINTS=np.zeros((3, 2), np.float32))
