"""Reports, run lengths, pictures, error mapping and overlays of the client; no server."""

from __future__ import annotations

import io
import json

import grpc
import numpy as np
import pytest
import sightline
from client_fake import crack, region, report
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco
from sightline import draw, pictures, rle
from sightline.errors import from_status
from sightline.report import parse

masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays(np.uint8, size, elements=st.integers(0, 1)))


@settings(max_examples=100, deadline=None)
@given(masks)
def test_rle_is_read_as_pycocotools_writes_it(mask):
    runs = coco.encode(np.asfortranarray(mask))
    assert np.array_equal(rle.decode(mask.shape, runs["counts"].decode()), mask)


def test_rle_of_a_large_mask():
    mask = np.zeros((3000, 5000), np.uint8)
    mask[1000:2999, 17:4800:3] = 1
    runs = coco.encode(np.asfortranarray(mask))
    assert np.array_equal(rle.decode(mask.shape, runs["counts"].decode()), mask)


@pytest.mark.parametrize("counts", ["", "1", "PPP", "!", "é", "00`"])
def test_rle_that_is_none(counts):
    with pytest.raises(ValueError):
        rle.decode((3, 4), counts)


def test_report_of_an_anomaly():
    mask, other = crack(), np.flipud(crack()).copy()
    part = {**region(np.ones((30, 40), np.uint8)), "iou": 0.98}
    experts = [{"name": "few_shot", "score": 0.9, "text": "hint", "references": 16}]
    parsed = parse(json.dumps(report((mask, other), part=part, experts=experts)), np.zeros((3, 4), np.uint8))
    assert parsed.anomaly and parsed.score == 0.93 and parsed.locations == ("top left",) and parsed.size == (30, 40)
    assert np.array_equal(parsed.mask, mask | other) and parsed.mask.dtype == np.uint8
    assert parsed.defects[0].area == mask.sum() and parsed.defects[0].box == (4.0, 3.0, 20.0, 6.0)
    assert parsed.part.iou == 0.98 and parsed.part.mask.all() and parsed.experts[0].references == 16
    assert parsed.heatmap.shape == (3, 4) and json.loads(parsed.json()) == parsed.raw


def test_report_of_a_normal_part():
    parsed = parse(json.dumps(report(score=0.4999)), np.zeros((0, 0), np.uint8))
    assert not parsed.anomaly and parsed.mask.shape == (30, 40) and not parsed.mask.any() and parsed.heatmap is None
    assert parsed.score_text == "0.49"


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "sightline/2"}, {"verdict": "unknown"}, {"verdict": "anomaly"}, {"score": 0.7}, {"score": float("nan")},
        {"score": None}, {"size": [30]}, {"defects": None}, {"part": {"box": [0, 0, 1, 1]}},
    ],
)  # fmt: skip
def test_what_is_not_a_report_is_never_a_verdict(changes):
    with pytest.raises(sightline.ServerFault):
        parse(json.dumps(report(**changes)))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"null", b"<html>", b"\xff"])
def test_what_is_no_json_is_never_a_verdict(text):
    with pytest.raises(sightline.ServerFault):
        parse(text)


@pytest.mark.parametrize(
    ("code", "details", "kind", "message"),
    [
        ("INVALID_ARGUMENT", "in ensemble 'inspect', in ensemble 'prepare', INVALID_ARGUMENT: BOX: empty", "InvalidInput", "BOX: empty"),
        ("INTERNAL", "NOT_FOUND: PRODUCT: no product 'x'", "UnknownProduct", "PRODUCT: no product 'x'"),
        ("NOT_FOUND", "Request for unknown model: 'inspect' is not found", "ServerFault", "Request for unknown model"),
        ("UNAVAILABLE", "UNAVAILABLE: queue full: 64 requests are in flight", "Overloaded", "queue full"),
        ("UNAVAILABLE", "[request id: 7] Exceeds maximum queue size", "Overloaded", "Exceeds"),
        ("UNAVAILABLE", "timeout: the request's time limit passed", "Timeout", "timeout"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "Timeout", "timeout: no answer before the deadline"),
        ("UNAVAILABLE", "failed to connect to all addresses; last error: UNKNOWN: x: connect timeout", "Unreachable", "no answer from h:1"),
        ("UNAVAILABLE", "Socket closed", "Unreachable", "no answer from h:1 (Socket closed)"),
        ("INTERNAL", "lisa: RuntimeError", "ServerFault", "lisa: RuntimeError"),
        ("UNKNOWN", "", "ServerFault", "the server answered UNKNOWN"),
    ],
)
def test_each_error_of_the_contract_has_its_class(code, details, kind, message):
    error = from_status(grpc.StatusCode[code], details, "h:1")
    assert type(error).__name__ == kind and error.message.startswith(message) and isinstance(error, sightline.NotInspected)
    assert error.as_json()["type"] == kind


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_are_sent_pixel_for_pixel(dtype, shape):
    import cv2

    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    read = cv2.imdecode(np.frombuffer(pictures.encode(array), np.uint8), cv2.IMREAD_UNCHANGED)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(shape[-1])
    assert read.dtype == dtype and np.array_equal(read[..., order] if order else read, array.squeeze())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pil_images_are_sent(mode):
    image = Image.new("L" if mode == "I;16" else "RGB", (7, 5)).convert(mode)
    assert Image.open(io.BytesIO(pictures.encode(image))).size == (7, 5)


@pytest.mark.parametrize("picture", [np.zeros((5, 7)), np.zeros((0, 7), np.uint8), np.zeros((5, 7, 2, 2), np.uint8), "absent.png", 7])
def test_what_is_no_picture_is_refused_here(picture):
    with pytest.raises(sightline.InvalidInput, match="REFERENCE"):
        pictures.encode(picture, "REFERENCE")


def test_the_picture_drawn_on_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=exif)
    assert pictures.to_rgb(buffer.getvalue()).size == (30, 40)
    assert pictures.to_rgb(np.full((3, 4), 60000, np.uint16)).mode == "RGB"


def test_overlay_shows_the_defect_and_the_verdict():
    array = np.full((30, 40, 3), 120, np.uint8)
    bad = draw.overlay(array, parse(json.dumps(report((crack(),))), np.full((3, 4), 200, np.uint8)))
    good = draw.overlay(array, parse(json.dumps(report())))
    assert bad.getpixel((3, 3)) == draw.ANOMALY and good.getpixel((3, 3)) == draw.NORMAL
    assert draw.DEFECT in {colour for _, colour in bad.getcolors(2**24)} and draw.DEFECT not in {c for _, c in good.getcolors(2**24)}
    assert bad.width > draw.overlay(array, parse(json.dumps(report((crack(),)))), heatmap=False).width


def test_a_thin_defect_of_a_large_picture_is_still_drawn():
    mask = np.zeros((3000, 4000), np.uint8)
    mask[1500, 1000:3000] = 1
    page = draw.overlay(np.full((3000, 4000), 120, np.uint8), parse(json.dumps(report((mask,), size=(3000, 4000)))))
    assert draw.DEFECT in {colour for _, colour in page.getcolors(2**24)} and max(page.size) < 3000


def test_overlay_refuses_another_picture():
    with pytest.raises(ValueError, match="10 x 10"):
        draw.overlay(np.zeros((10, 10), np.uint8), parse(json.dumps(report())))
