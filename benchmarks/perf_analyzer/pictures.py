"""perf_analyzer's JSON input: real solar cells of the test part as PNG bytes, one request each, in turn."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

from sightline_training.data import cells

MODELS = ("inspect", "inspect_stream", "segment")
_BOX = {"content": [10.0, 10.0, 290.0, 290.0], "shape": [4]}  # of a cell, 300 x 300
_POINT = {"content": [150.0, 150.0, 1.0], "shape": [1, 3]}


def string(content: bytes) -> dict[str, Any]:
    """A BYTES element as perf_analyzer wants it: its length in four bytes, little-endian, before it."""
    return {"content": {"b64": base64.b64encode(struct.pack("<I", len(content)) + content).decode()}, "shape": [1]}


def requests(model: str, count: int, max_tokens: int) -> list[dict[str, Any]]:
    """`count` requests, as evenly spread over the test part as that goes."""
    chosen = cells("test")
    pictures = [string(cell.path.read_bytes()) for cell in chosen[:: max(1, len(chosen) // count)][:count]]
    if model == "segment":  # every input, or perf_analyzer refuses shared memory
        return [{"IMAGE": picture, "BOX": _BOX, "POINTS": _POINT} for picture in pictures]
    return [{"IMAGE": picture, "MAX_TOKENS": {"content": [max_tokens], "shape": [1]}} for picture in pictures]


def write(path: Path, model: str, count: int = 32, max_tokens: int = 96) -> Path:
    path.write_text(json.dumps({"data": requests(model, count, max_tokens)}))
    return path


def shapes(model: str) -> list[str]:
    """The options that tell perf_analyzer the inputs' shapes."""
    dims = {"IMAGE": "1", "BOX": "4", "POINTS": "1,3"} if model == "segment" else {"IMAGE": "1", "MAX_TOKENS": "1"}
    return [word for name, shape in dims.items() for word in ("--shape", f"{name}:{shape}")]
