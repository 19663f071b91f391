"""`segment` of the tiny profile on drawn parts: how well the mask fits, what is cut out, and that points are obeyed."""

from __future__ import annotations

import io
from functools import cache

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

GROUNDS = {
    "flat dark": (35, None), "flat bright": (215, None), "gradient": (90, "gradient"), "fine grain": (60, "fine"),
    "coarse grain": (150, "coarse"), "stripes": (80, "stripes"), "checker": (170, "checker"), "vignette": (120, "vignette"),
}  # fmt: skip
SHAPES = ("rectangle", "turned", "ellipse", "polygon", "ring", "L")
SIZES = ((300, 400), (480, 360), (640, 640))
BAR = 0.9


def ground(name: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """float32 [H, W]."""
    tone, kind = GROUNDS[name]
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    pixels = np.full(shape, tone, np.float32)
    if kind == "gradient":
        pixels += 35 * x + 20 * y
    elif kind == "fine":
        pixels += rng.normal(0, 12, shape)
    elif kind == "coarse":
        pixels += 14 * cv2.resize(rng.normal(0, 1, (shape[0] // 6, shape[1] // 6)).astype(np.float32), shape[::-1])
    elif kind == "stripes":
        pixels += 15 * np.sin(40 * x + 25 * y)
    elif kind == "checker":
        pixels += 15 * np.sign(np.sin(25 * x)) * np.sign(np.sin(25 * y))
    elif kind == "vignette":
        pixels *= 1.1 - 0.3 * (x**2 + y**2)
    return pixels


def outline(kind: str, centre: tuple[float, float], size: tuple[float, float]) -> list[np.ndarray]:
    """Contours, the second a hole: points [n, 2] in pixels."""
    circle = np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 90)), np.sin(a)], 1) / 2
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    turn = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
    unit = {
        "rectangle": [square], "turned": [square @ turn], "ellipse": [circle], "ring": [circle, circle / 2],
        "polygon": [np.array([[-0.5, -0.1], [-0.1, -0.5], [0.45, -0.3], [0.5, 0.3], [0, 0.5]])],
        "L": [np.array([[-0.5, -0.5], [0, -0.5], [0, 0], [0.5, 0], [0.5, 0.5], [-0.5, 0.5]])],
    }  # fmt: skip
    return [contour * size + centre for contour in unit[kind]]


def lay(pixels: np.ndarray, kind: str, centre: tuple[float, float], size: tuple[float, float], tone: float) -> np.ndarray:
    """Draws an even part into `pixels` float32 [H, W]; returns its mask bool [H, W]."""
    mask = np.zeros(pixels.shape, np.uint8)
    for hole, contour in enumerate(outline(kind, centre, size)):
        cv2.fillPoly(mask, [np.round(contour).astype(np.int32)], int(hole == 0))
    pixels[mask > 0] = tone
    return mask > 0


def camera(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] with a little noise."""
    grey = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def box_of(mask: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """float32 [4]: a box in whole pixels around a mask, wider by a share of its sides, within the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    dx, dy = round(margin * (x1 - x0)), round(margin * (y1 - y0))
    return np.array([max(x0 - dx, 0), max(y0 - dy, 0), min(x1 + dx, mask.shape[1]), min(y1 + dy, mask.shape[0])], np.float32)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def segment(grpc, pixels: np.ndarray, model: str = "segment", **given: np.ndarray) -> triton.InferResult:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    inputs = [triton.InferInput("IMAGE", [1], "BYTES")]
    inputs[0].set_data_from_numpy(np.array([buffer.getvalue()], np.object_))
    for name, value in given.items():
        value = np.asarray(value, np.float32)
        inputs.append(triton.InferInput(name, list(value.shape), "FP32"))
        inputs[-1].set_data_from_numpy(value)
    return grpc.infer(model, inputs, client_timeout=60)


@cache
def drawing(ground_name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 [H, W, 3] of one part, 45 to 110 grey levels from its ground, and the part's mask."""
    rng = np.random.default_rng((list(GROUNDS).index(ground_name), number))
    shape = SIZES[number % len(SIZES)]
    pixels = ground(ground_name, shape, rng)
    size = rng.uniform(0.3, 0.6, 2) * min(shape)
    centre = np.array(shape[::-1]) / 2 + rng.uniform(-0.12, 0.12, 2) * shape[::-1]
    base, step = float(pixels.mean()), rng.uniform(45, 110)
    mask = lay(pixels, SHAPES[number % len(SHAPES)], tuple(centre), tuple(size), base + step if base < 128 else base - step)
    return camera(pixels, rng), mask


@pytest.mark.parametrize("name", GROUNDS)
def test_mask_fits_the_part(grpc, name):
    """Issue 3, B6: exact boxes and boxes with a margin, on each background."""
    scores = []
    for number in range(len(SHAPES)):
        pixels, mask = drawing(name, number)
        answer = segment(grpc, pixels, BOX=box_of(mask, margin=0.1 * (number % 2)))
        scores.append(iou(answer.as_numpy("MASK") > 0, mask))
    print(name, [round(score, 3) for score in scores])
    assert np.mean(scores) >= BAR, scores
    assert min(scores) >= 0.75, scores


@pytest.mark.parametrize(("name", "fill"), [("flat dark", 0), ("flat bright", 0), ("checker", 255)])
def test_cutout_is_the_original_inside_the_mask(grpc, name, fill):
    pixels, mask = drawing(name, 0)
    x0, y0, x1, y1 = box = box_of(mask, margin=0.15).astype(int)
    answer = segment(grpc, pixels, BOX=box)
    found, cut = answer.as_numpy("MASK") > 0, np.asarray(Image.open(io.BytesIO(answer.as_numpy("CUTOUT").item())).convert("RGB"))
    assert found.shape == mask.shape and cut.shape == (y1 - y0, x1 - x0, 3)
    inside = found[y0:y1, x0:x1]
    assert inside.sum() == found.sum() > 0  # the offset: nothing of the mask lies outside of the box
    part = pixels[y0:y1, x0:x1]
    assert fill == (255 if part[inside].mean() <= 127.5 else 0)
    assert np.array_equal(cut, np.where(inside[..., None], part, np.uint8(fill)))
    assert iou(found, mask) >= BAR


@cache
def neighbours(ground_name: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """A picture of two parts of one tone, and their masks."""
    rng = np.random.default_rng(7)
    pixels = ground(ground_name, (400, 560), rng)
    tone = 190.0 if pixels.mean() < 128 else 60.0
    masks = [lay(pixels, "rectangle", (160, 210), (170, 190), tone), lay(pixels, "ellipse", (400, 190), (180, 220), tone)]
    return camera(pixels, rng), masks


@pytest.mark.parametrize("name", ["flat dark", "fine grain", "checker"])
def test_points_choose_the_part(grpc, name):
    """A foreground point on one part, a background point on its neighbour; then the other way round."""
    pixels, masks = neighbours(name)
    places = [(150.0, 200.0), (410.0, 200.0)]
    for chosen in (0, 1):
        points = [(*place, float(number == chosen)) for number, place in enumerate(places)]
        found = segment(grpc, pixels, POINTS=points).as_numpy("MASK") > 0
        print(name, chosen, round(iou(found, masks[chosen]), 3))
        assert iou(found, masks[chosen]) >= 0.85
        assert (found & masks[1 - chosen]).sum() < 0.05 * masks[1 - chosen].sum()


def test_background_point_takes_away(grpc):
    """A box around two parts: without points both, a background point on one leaves the other."""
    pixels, masks = neighbours("flat dark")
    box = box_of(masks[0] | masks[1])
    found = segment(grpc, pixels, BOX=box, POINTS=[(150.0, 200.0, 1.0), (410.0, 200.0, 0.0)]).as_numpy("MASK") > 0
    assert iou(found, masks[0]) >= 0.85


def test_inspect_cuts_out_the_same_part(grpc):
    """`inspect` with BOX runs the same decoder: its report's part is the mask of `segment`."""
    import json

    from pycocotools import mask as coco

    pixels, mask = drawing("fine grain", 0)
    box = box_of(mask, margin=0.1)
    part = json.loads(segment(grpc, pixels, "inspect", BOX=box).as_numpy("REPORT").item())["part"]
    found = coco.decode({"size": part["rle"]["size"], "counts": part["rle"]["counts"].encode()}) > 0
    assert iou(found, mask) >= BAR and part["iou"] >= 0.8
