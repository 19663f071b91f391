"""Pictures: encoded bytes to RGB, safely, and the geometry that every step shares.

Accepted: JPEG, PNG, BMP, TIFF, WebP (first frame); 1, 8 or 16 bit; grey, RGB, RGBA, palette, CMYK; EXIF orientation is
honoured. 16-bit grey is scaled from its full range (65535, or 4095 for 12-bit TIFF) to 255. An alpha channel is dropped, not
composited: OpenCV, and with it the published SAM and LISA code, reads pictures so.
"""

from __future__ import annotations

import base64
import binascii
import io
import math

import numpy as np
from PIL import Image, TiffImagePlugin

from .contract import MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS
from .errors import invalid

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
Image.MAX_IMAGE_PIXELS = None  # our own limit is checked on the header, before a pixel is decoded

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels, x1 and y1 exclusive."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II", b"MM", b"RIFF")
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 258, 262
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(content: bytes, name: str) -> Image.Image:
    """Read the header only. RequestError where it is no picture we accept, or too large.

    Args:
        content: an encoded picture, or its base64 text (Triton's HTTP generate carries only text).
        name: the input's name, for errors.
    """
    content = _plain(content)
    if not content:
        raise invalid(name, "empty, expected an encoded picture (JPEG, PNG, BMP, TIFF or WebP)")
    if len(content) > MAX_PICTURE_BYTES:
        raise invalid(name, f"{len(content)} bytes, expected at most {MAX_PICTURE_BYTES} (64 MiB)")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
    except Exception:
        raise invalid(name, "cannot be decoded, expected a JPEG, PNG, BMP, TIFF or WebP picture") from None
    if width * height > MAX_PICTURE_PIXELS:
        raise invalid(name, f"{width} x {height} pixels, expected at most {MAX_PICTURE_PIXELS // 10**6} megapixels")
    if width * height == 0 or image.mode in ("F", "LAB", "HSV"):
        raise invalid(name, "expected a picture of 8 or 16 bit, grey, RGB, RGBA or palette")
    return image


def decode(content: bytes, name: str) -> Image.Image:
    """An encoded picture as an upright 8-bit RGB picture. RequestError where it cannot be decoded."""
    image = open_picture(content, name)
    turn = _TURNS.get(_orientation(image))
    try:
        image.load()
        rgb = _to_rgb(image)
    except Exception:
        raise invalid(name, "cannot be decoded, the picture is damaged or of a kind that is not supported") from None
    return rgb if turn is None else rgb.transpose(turn)


def size_of(content: bytes, name: str) -> tuple[int, int]:
    """Height and width of the upright picture, from its header."""
    image = open_picture(content, name)
    width, height = image.size
    return (width, height) if _orientation(image) >= 5 else (height, width)


def _plain(content: bytes) -> bytes:
    if content.startswith(_MAGIC):
        return content
    text = content.split(b",", 1)[1] if content.startswith(b"data:") and b"," in content[:64] else content
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return content


def _orientation(image: Image.Image) -> int:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1  # Pillow turns these itself, their size included
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data is no reason to refuse a good picture
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bit(image)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> np.ndarray:
    """A 16-bit grey picture as uint8 [H, W]."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bit")
    full, inverted = 65535, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])
        full, inverted = 2 ** min(bits, 16) - 1, image.tag_v2.get(_PHOTOMETRIC) == 0
    table = ((np.arange(65536, dtype=np.uint64) * 255 + full // 2) // full).clip(0, 255).astype(np.uint8)
    grey = table[values.astype(np.uint16)]
    return 255 - grey if inverted else grey


# --- geometry ---------------------------------------------------------------------------------------------------------
def clip_box(box: np.ndarray, height: int, width: int, name: str) -> np.ndarray:
    """float32 [4] x_min, y_min, x_max, y_max within the picture. RequestError: not finite, empty, or wholly outside."""
    x0, y0, x1, y1 = (float(v) for v in box)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise invalid(name, "expected four finite numbers x_min, y_min, x_max, y_max")
    if x1 <= x0 or y1 <= y0:
        raise invalid(name, "empty, expected x_min < x_max and y_min < y_max")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise invalid(name, f"outside of the picture, expected a box that meets {width} x {height} pixels")
    return np.array([max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)], np.float32)


def window_of(part_box: np.ndarray, height: int, width: int) -> Window:
    """The whole pixels of a `part_box` tensor [1, 4]; the whole picture for [0, 4]."""
    if not len(part_box):
        return 0, 0, width, height
    x0, y0, x1, y1 = (float(v) for v in part_box[0])
    left, top = min(math.floor(x0), width - 1), min(math.floor(y0), height - 1)
    return left, top, max(math.ceil(x1), left + 1), max(math.ceil(y1), top + 1)


def sam_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width inside SAM's square input, rounded as the published code does."""
    scale = side / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def sam_pixels(image: Image.Image, side: int) -> np.ndarray:
    """uint8 [1, 3, S, S]: longest side S (PIL bilinear), zeros right and bottom (the graph turns them into its padding)."""
    height, width = sam_size(image.height, image.width, side)
    square = np.zeros((1, 3, side, side), np.uint8)
    square[0, :, :height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return square


def crop(image: Image.Image, window: Window, longest: int | None = None) -> np.ndarray:
    """uint8 [h, w, 3] of a window; scaled down (PIL bicubic) where its longest side exceeds `longest`."""
    part = image.crop(window) if window != (0, 0, image.width, image.height) else image
    if longest and max(part.size) > longest:
        scale = longest / max(part.size)
        part = part.resize((max(round(part.width * scale), 1), max(round(part.height * scale), 1)), Image.Resampling.BICUBIC)
    return np.array(part)
