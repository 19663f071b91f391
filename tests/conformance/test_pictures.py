"""IMAGE: formats, depths, colours, orientation, limits. One grey cell in every dress must give one and the same answer."""

from __future__ import annotations

import io
import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from .helpers import INVALID, ask, drawn, encode, iou, refuse

MEBIBYTE = 2**20


def cv(suffix: str, pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def rgba(grey: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb(grey), np.full((*grey.shape, 1), 255, np.uint8)], axis=2)


def palette(grey: np.ndarray) -> Image.Image:
    """Index 255 - v stands for tone v: whoever reads the indices as tones sees a negative."""
    image = Image.fromarray(255 - grey, "P")
    image.putpalette([255 - tone for tone in range(256) for _ in range(3)])
    return image


def sixteen(grey: np.ndarray) -> np.ndarray:
    return grey.astype(np.uint16) * 257


LOSSLESS = {
    "png-grey": lambda g: encode(g),
    "png-rgb": lambda g: encode(rgb(g)),
    "png-rgba": lambda g: encode(rgba(g)),
    "png-palette": lambda g: encode(palette(g)),
    "png-grey16": lambda g: cv(".png", sixteen(g)),
    "png-rgb16": lambda g: cv(".png", rgb(sixteen(g))),
    "png-rgba16": lambda g: cv(".png", np.concatenate([rgb(sixteen(g)), np.full((*g.shape, 1), 65535, np.uint16)], axis=2)),
    "bmp-grey": lambda g: encode(g, "BMP"),
    "bmp-rgb": lambda g: encode(rgb(g), "BMP"),
    "bmp-palette": lambda g: encode(palette(g), "BMP"),
    "tiff-grey": lambda g: encode(g, "TIFF"),
    "tiff-rgb": lambda g: encode(rgb(g), "TIFF", compression="tiff_lzw"),
    "tiff-rgba": lambda g: encode(rgba(g), "TIFF"),
    "tiff-palette": lambda g: encode(palette(g), "TIFF"),
    "tiff-grey16": lambda g: cv(".tiff", sixteen(g)),
    "tiff-rgb16": lambda g: cv(".tiff", rgb(sixteen(g))),
    "webp-rgb": lambda g: encode(rgb(g), "WEBP", lossless=True),
    "webp-rgba": lambda g: encode(rgba(g), "WEBP", lossless=True),
}
LOSSY = {
    "jpeg-grey": lambda g: encode(g, "JPEG", quality=98),
    "jpeg-rgb": lambda g: encode(rgb(g), "JPEG", quality=98),
    "jpeg-progressive": lambda g: encode(rgb(g), "JPEG", quality=98, progressive=True),
    "webp-lossy": lambda g: encode(rgb(g), "WEBP", quality=98),
}


@pytest.fixture(scope="module")
def grey(bad) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(bad.picture)).convert("L"))
    return np.ascontiguousarray(pixels[:, :280])  # not square: height and width cannot be mistaken for one another


@pytest.fixture(scope="module")
def plain(grpc, grey):
    return ask(grpc, MAX_TOKENS=1, IMAGE=encode(grey))


@pytest.mark.parametrize("dress", LOSSLESS)
def test_lossless_formats_give_the_same_answer(grpc, grey, plain, dress):
    answer = ask(grpc, MAX_TOKENS=1, outputs=("REPORT", "SCORE", "MASK"), IMAGE=LOSSLESS[dress](grey))
    assert answer.report["size"] == [300, 280] and answer.mask.shape == (300, 280)
    assert answer.score == pytest.approx(plain.score, abs=1e-3) and iou(answer.mask, plain.mask) >= 0.99


@pytest.mark.parametrize("dress", LOSSY)
def test_lossy_formats(grpc, grey, plain, dress):
    answer = ask(grpc, MAX_TOKENS=1, outputs=("REPORT", "SCORE", "MASK"), IMAGE=LOSSY[dress](grey))
    assert answer.report["size"] == [300, 280] and answer.mask.shape == (300, 280)
    assert answer.score == pytest.approx(plain.score, abs=0.2) and answer.mask.any() == plain.mask.any()


def test_the_negative_is_another_picture(grpc, grey, plain):
    """Guards the two tests above: a picture read wrongly does change the answer."""
    answer = ask(grpc, MAX_TOKENS=1, outputs=("SCORE", "MASK"), IMAGE=encode(255 - grey))
    assert abs(answer.score - plain.score) > 1e-3 or iou(answer.mask, plain.mask) < 0.99


# --- orientation ------------------------------------------------------------------------------------------------------
UNDO = {  # EXIF orientation -> how its stored pixels become upright
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p)[:, ::-1],
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "TIFF-LZW"])
def test_exif_orientation_is_honoured(grpc, orientation, format):
    rows, columns = np.mgrid[0:60, 0:90]  # every pixel tells its place, so any part SAM keeps tells the eight apart
    stored = np.stack([2 * columns, 4 * rows, 0 * rows + 128], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    kinds = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}, "TIFF-LZW": {"compression": "tiff_lzw"}}
    picture = encode(stored, format.removesuffix("-LZW"), exif=exif, **kinds.get(format, {}))
    upright = np.ascontiguousarray(UNDO[orientation](stored))
    height, width = upright.shape[:2]
    answer = ask(grpc, "segment", IMAGE=picture, BOX=[0.0, 0.0, width, height])
    assert answer.mask.shape == (height, width)
    cut = np.asarray(Image.open(io.BytesIO(answer.outputs["CUTOUT"].item())).convert("RGB")).astype(int)
    kept = answer.mask > 0
    assert kept.any() and np.abs(cut - upright.astype(int))[kept].max() <= 24


def test_exif_orientation_in_the_report(grpc):
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = ask(grpc, MAX_TOKENS=1, IMAGE=encode(drawn(60, 90, (10, 10, 80, 50)), "JPEG", exif=exif))
    assert answer.report["size"] == [90, 60] and answer.mask.shape == (90, 60)


# --- limits -----------------------------------------------------------------------------------------------------------
def bilevel_png(side: int, other: int) -> bytes:
    """A 1-bit PNG of side x other pixels in a few kB."""
    packer, row = zlib.compressobj(1), b"\x00" + b"\x5a" * ((side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(other)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, other, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_hundred_megapixels_are_inspected_in_bounded_time(grpc):
    answer = ask(grpc, MAX_TOKENS=1, outputs=("REPORT", "MASK"), IMAGE=bilevel_png(10_000, 10_000))
    assert answer.report["size"] == [10_000, 10_000] and answer.mask.shape == (10_000, 10_000)
    assert answer.seconds < 20


def test_more_pixels_are_refused_by_the_header(grpc):
    picture = bilevel_png(10_001, 10_000)
    start = time.monotonic()
    refuse(grpc, INVALID, "IMAGE", "100 megapixels", IMAGE=picture)
    assert time.monotonic() - start < 1.0


def test_64_mebibytes_and_one_more(grpc):
    picture = encode(drawn(48, 64, (8, 8, 56, 40)), "JPEG")
    padded = picture + bytes(64 * MEBIBYTE - len(picture))
    assert ask(grpc, MAX_TOKENS=1, outputs=("REPORT",), IMAGE=padded).report["size"] == [48, 64]
    refuse(grpc, INVALID, "IMAGE", "64 MiB", IMAGE=padded + b"\x00")


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2, 3)])
def test_very_small_and_thin_pictures(grpc, shape):
    answer = ask(grpc, MAX_TOKENS=1, IMAGE=encode(np.full((*shape, 3), 128, np.uint8)))
    assert answer.report["size"] == list(shape) and answer.mask.shape == shape


def test_pictures_that_are_none(grpc, grey):
    png, jpeg = encode(grey), encode(grey, "JPEG")
    cases = {
        "empty": b"", "text": b"not a picture", "cut png": png[: len(png) // 2], "cut jpeg": jpeg[: len(jpeg) // 2],
        "header only": png[:40], "gif": encode(grey, "GIF"), "zeros": bytes(1000), "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "float tiff": cv(".tiff", grey.astype(np.float32)),
    }  # fmt: skip
    for case, content in cases.items():
        line = refuse(grpc, INVALID, "IMAGE", IMAGE=content)
        assert "expected" in line or "decoded" in line, case
