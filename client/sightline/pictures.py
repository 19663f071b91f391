"""Pictures in and out: what is sent to the server, and what is drawn on."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from .errors import InvalidInput

Picture = str | PathLike[str] | bytes | npt.NDArray[Any] | Image.Image
"""A path or the bytes of an encoded picture (sent as they are), an array [H, W] or [H, W, 1|3|4] of uint8 or uint16, or a PIL image."""

_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG colour type
_PIL_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}  # what PNG holds without loss


def encode(picture: Picture, name: str = "IMAGE") -> bytes:
    """The encoded picture to send as input `name`. Arrays and PIL images become PNG, pixel for pixel. InvalidInput if it is none."""
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, np.ndarray):
        return _encode_array(picture, name)
    if isinstance(picture, Image.Image):
        return _encode_pil(picture, name)
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{name}: cannot read {picture}: {error.strerror}", "INVALID_ARGUMENT") from error
    except TypeError as error:
        expected = "a path, bytes, array or PIL image"
        raise InvalidInput(f"{name}: expected {expected}, got {type(picture).__name__}", "INVALID_ARGUMENT") from error


def _encode_array(array: npt.NDArray[Any], name: str) -> bytes:
    pixels = array[..., None] if array.ndim == 2 else array
    good = pixels.ndim == 3 and pixels.shape[-1] in _PNG_COLOUR and pixels.size and array.dtype in (np.uint8, np.uint16)
    if not good:
        expected = "[H, W] or [H, W, 1, 3 or 4] of uint8 or uint16"
        raise InvalidInput(f"{name}: expected an array {expected}, got {list(array.shape)} of {array.dtype}", "INVALID_ARGUMENT")
    height, width, channels = pixels.shape
    bits = array.dtype.itemsize * 8
    rows = np.ascontiguousarray(pixels, dtype=f">u{array.dtype.itemsize}").view(np.uint8).reshape(height, -1)
    filtered = np.pad(rows, ((0, 0), (1, 0)))  # each row begins with filter type 0: none
    header = struct.pack(">IIBBBBB", width, height, bits, _PNG_COLOUR[channels], 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 1)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _encode_pil(image: Image.Image, name: str) -> bytes:
    if image.mode in ("F", "I"):
        raise InvalidInput(f"{name}: a PIL image of mode {image.mode} has no fixed range, expected 8 or 16 bit", "INVALID_ARGUMENT")
    buffer = io.BytesIO()
    (image if image.mode in _PIL_MODES else image.convert("RGB")).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def to_rgb(picture: Picture) -> Image.Image:
    """The picture as the server counts its pixels: upright (EXIF), first frame, 8-bit RGB. InvalidInput if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the server's own limit has been passed by now
            image = Image.open(io.BytesIO(encode(picture)))
            return _eight_bit(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise InvalidInput(f"IMAGE: not a picture that can be drawn on: {error}", "INVALID_ARGUMENT") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(np.uint8(255 * (values - low) / max(high - low, 1.0))).convert("RGB")
