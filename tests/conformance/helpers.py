"""What the conformance suite needs to ask a server, by gRPC or HTTP, and to read its answers. Public tensors only."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from sightline_training.data import Cell, cells
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

INVALID, NOT_FOUND, UNAVAILABLE = "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"
OUTPUTS = ("REPORT", "TEXT", "SCORE", "MASK", "HEATMAP")
PATIENCE_S = 120.0  # no call of the suite waits longer: a hang is a failure, not a stuck run


@dataclass(frozen=True)
class Answer:
    """The outputs of one response, and the seconds it took."""

    outputs: dict[str, np.ndarray]
    seconds: float = 0.0
    final: bool = False

    @cached_property
    def report(self) -> dict[str, Any]:
        return json.loads(self.outputs["REPORT"].item())

    @property
    def text(self) -> str:
        return self.outputs["TEXT"].item().decode()

    @property
    def score(self) -> float:
        return self.outputs["SCORE"].item()

    @property
    def mask(self) -> np.ndarray:
        return self.outputs["MASK"]

    @property
    def anomaly(self) -> bool:
        return self.report["verdict"] == "anomaly"


# --- asking -----------------------------------------------------------------------------------------------------------
def tensor(value: Any) -> np.ndarray:
    """Text and pictures as BYTES, whole numbers as INT32 [1], rows of numbers as FP32; arrays as they are."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (bytes, str)):
        value = [value]
    if isinstance(value, int):
        return np.array([value], np.int32)
    if not len(value) or isinstance(value[0], (bytes, str)):
        return np.array([v.encode() if isinstance(v, str) else v for v in value], np.object_)
    return np.asarray(value, np.float32)


def inputs(values: dict[str, Any], kind: Callable[..., Any] = triton.InferInput) -> list[Any]:
    """Inputs of a request from their names and values; `kind` is the gRPC or the HTTP client's InferInput."""
    found = []
    for name, value in values.items():
        array = tensor(value)
        found.append(kind(name, list(array.shape), np_to_triton_dtype(array.dtype)))
        found[-1].set_data_from_numpy(array)
    return found


def ask(
    grpc: triton.InferenceServerClient, model: str = "inspect", outputs: Iterable[str] = (), timeout: float | None = None, **values: Any
) -> Answer:
    """One unary request. `outputs`: those asked for, none: all. `timeout`: seconds, told to the server only."""
    start = time.monotonic()
    wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
    microseconds = None if timeout is None else int(timeout * 1e6)
    result = grpc.infer(model, inputs(values), outputs=wanted, timeout=microseconds, client_timeout=PATIENCE_S)
    return Answer(arrays(result), time.monotonic() - start)


def arrays(result: Any) -> dict[str, np.ndarray]:
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def refuse(grpc: triton.InferenceServerClient, status: str, *words: str, model: str = "inspect", **values: Any) -> str:
    """The line with which the server refuses a request; fails unless it is as the contract wants it."""
    with pytest.raises(InferenceServerException) as caught:
        ask(grpc, model, **values)
    return check_error(caught.value, status, *words)


def check_error(error: InferenceServerException, status: str, *words: str) -> str:
    """Its status, one line, no trace, no path, and all of `words` (the input's name, what was expected). A stream's error has its status
    as the first word of its line."""
    line = error.message()
    assert error.status() in (f"StatusCode.{status}", status) or not error.status() and line.startswith(f"{status}: "), line
    assert line and "\n" not in line.strip() and "Traceback" not in line, line
    assert not re.search(r"(?<![\w.])/\w[\w.-]*/|\.py\b|line \d+, in ", line), line
    for word in words:
        assert word.lower() in line.lower(), f"'{word}' is not in: {line}"
    return line


# --- pictures ---------------------------------------------------------------------------------------------------------
def sample_cells(probability: float, count: int) -> list[Cell]:
    """Real solar cells nobody trained on, spread over the test part: 1.0 defective, 0.0 good."""
    found = [cell for cell in cells("test") if cell.probability == probability]
    return [found[index * len(found) // count] for index in range(count)]


def encode(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, format, **options)
    return buffer.getvalue()


def drawn(height: int, width: int, box: Sequence[int], part: int = 190, ground: int = 30) -> np.ndarray:
    """uint8 [height, width, 3]: an even part (its box: x0, y0, x1, y1) with a little grain on an even ground."""
    pixels = np.full((height, width, 3), ground, np.uint8)
    cv2.rectangle(pixels, (box[0], box[1]), (box[2] - 1, box[3] - 1), (part,) * 3, -1)
    grain = np.random.default_rng(0).integers(-6, 7, (height, width, 1))
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """1 where both are empty."""
    a, b = a > 0, b > 0
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0
