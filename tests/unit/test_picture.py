"""Decoding: kinds, depths, orientation, limits; SAM's frame."""

import base64
import io

import cv2
import numpy as np
import pytest
from PIL import Image
from sightline_ensemble import contract, intake, picture
from sightline_ensemble.errors import RequestError

RAMP = (np.arange(48 * 64) * 21).reshape(48, 64).astype(np.uint16)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_kinds(kind, mode):
    if (kind, mode) in {("JPEG", "RGBA"), ("JPEG", "P")}:
        return
    content = encoded(Image.new("RGB", (20, 10), (200, 200, 200)).convert(mode), kind)
    for given in (content, base64.b64encode(content), b"data:image/x;base64," + base64.b64encode(content)):
        image = picture.decode(given, "IMAGE")
        assert image.mode == "RGB" and image.size == (20, 10)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit(kind):
    expected = np.round(RAMP / 257)
    grey = np.asarray(picture.decode(encoded(Image.fromarray(RAMP), kind), "IMAGE"))[..., 0]
    assert np.abs(grey - expected).max() <= 1
    colour = cv2.imencode(f".{kind.lower()}", np.stack([RAMP] * 3, -1))[1].tobytes()
    assert np.abs(np.asarray(picture.decode(colour, "IMAGE"))[..., 1] - expected).max() <= 1


def test_orientation():
    image = Image.new("RGB", (30, 10))
    image.paste((255, 255, 255), (0, 0, 5, 5))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(image, "PNG", exif=exif)
    assert picture.decode(content, "IMAGE").size == (10, 30) and picture.size_of(content, "IMAGE") == (30, 10)
    assert picture.decode(content, "IMAGE").getpixel((9, 0)) == (255, 255, 255)


def test_limits(monkeypatch):
    content = encoded(Image.new("RGB", (20, 10)), "PNG")
    noise = encoded(Image.effect_noise((50, 50), 90), "PNG")
    for bad in (b"", b"x", noise[: len(noise) // 2], encoded(Image.new("RGB", (4, 4)), "GIF")):
        with pytest.raises(RequestError, match="INVALID_ARGUMENT: IMAGE: "):
            picture.decode(bad, "IMAGE")
    monkeypatch.setattr(picture, "MAX_PICTURE_PIXELS", 199)
    with pytest.raises(RequestError, match="20 x 10 pixels"):
        picture.open_picture(content, "IMAGE")
    monkeypatch.setattr(picture, "MAX_PICTURE_BYTES", 10)
    with pytest.raises(RequestError, match="64 MiB"):
        picture.open_picture(content, "IMAGE")


def test_box():
    assert picture.clip_box(np.array([-5, 2, 50, 8]), 10, 20, "BOX").tolist() == [0, 2, 20, 8]
    for bad in ([0, 0, 0, 5], [20, 0, 30, 5], [0, 0, np.inf, 5], [-5, -5, 0, 5]):
        with pytest.raises(RequestError, match="BOX"):
            picture.clip_box(np.array(bad), 10, 20, "BOX")
    assert picture.window_of(np.array([[19.6, 9.9, 20, 10]]), 10, 20) == (19, 9, 20, 10)
    assert picture.window_of(np.zeros((0, 4)), 10, 20) == (0, 0, 20, 10)


def test_sam_frame():
    assert picture.sam_size(100, 333, 1024) == (308, 1024)
    image = Image.new("RGB", (20, 10), (9, 9, 9))
    pixels = picture.sam_pixels(image, 64)
    assert pixels.shape == (1, 3, 64, 64) and (pixels[0, :, :32] == 9).all() and not pixels[0, :, 32:].any()
    nothing = np.zeros((0, 3), np.float32)
    found = intake.sam_prompt(np.array([[0, 0, 20, 10]], np.float32), nothing, 10, 20, 64)
    assert found["point_coords"].tolist() == [[[[0, 0], [64, 32]]]] and found["point_labels"].tolist() == [[[2, 3]]]
    assert intake.sam_prompt(np.zeros((0, 4)), nothing, 10, 20, 64)["point_labels"].tolist() == [[[-1, -1]]]
    one = intake.sam_prompt(np.zeros((0, 4)), np.array([[10, 5, 1]], np.float32), 10, 20, 64)
    assert one["point_labels"].tolist() == [[[1, -1]]] and one["point_coords"][0, 0, 0].tolist() == [32, 16]
    assert contract.PART_SIDE >= max(picture.crop(image, (0, 0, 20, 10), contract.PART_SIDE).shape)
