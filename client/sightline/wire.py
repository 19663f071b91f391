"""Requests and answers of the contract as Triton's protobuf messages; no network here, so both clients share it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .errors import InvalidInput, ServerFault
from .pictures import Picture, encode
from .protocol import message
from .report import Complete, Event, Piece, Report, Segment, Verdict, parse
from .shared import LEAST, Region

Request: TypeAlias = Any  # protobuf messages
Response: TypeAlias = Any
StreamResponse: TypeAlias = Any
ANSWER = ("REPORT", "HEATMAP")  # the mask is in the report as runs: a full one would be a byte for each pixel


class Tensors(dict[str, tuple[str, list[int], bytes]]):
    """Inputs by name: Triton's data type, shape and raw little-endian content."""

    def text(self, name: str, *values: str | bytes) -> None:
        try:
            data = [value.encode() if isinstance(value, str) else value for value in values]
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise InvalidInput(f"{name}: expected text that UTF-8 can hold: {error.reason}", "INVALID_ARGUMENT") from error
        self[name] = ("BYTES", [len(data)], b"".join(struct.pack("<I", len(item)) + item for item in data))

    def array(self, name: str, dtype: str, values: Any) -> None:
        try:
            array = np.asarray(values, {"FP32": "<f4", "INT32": "<i4"}[dtype])
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInput(f"{name}: expected numbers, got {values!r}", "INVALID_ARGUMENT") from error
        self[name] = (dtype, list(array.shape), array.tobytes())

    def large(self) -> int:
        """Bytes of those inputs that are worth shared memory."""
        return sum(len(content) for _, _, content in self.values() if len(content) >= LEAST)

    def written(self, region: Region) -> dict[str, int]:
        """Puts the large ones into the region; where each begins. Nothing where the region is gone: then they are sent as bytes."""
        names = [name for name, (_, _, content) in self.items() if len(content) >= LEAST]
        try:
            return dict(zip(names, region.write([self[name][2] for name in names]), strict=True))
        except ValueError:  # unmapped meanwhile: another request found the server started anew, or the client was closed
            return {}


def inspection(
    image: Picture,
    prompt: str | None = None,
    product: str | None = None,
    box: Sequence[float] | None = None,
    reference: Sequence[Picture] | None = None,
    expert: str | None = None,
    history: Sequence[Mapping[str, str]] | None = None,
    max_tokens: int | None = None,
) -> Tensors:
    """Inputs of `inspect` and `inspect_stream`; the optional ones only where given."""
    tensors = Tensors()
    tensors.text("IMAGE", encode(image))
    for name, value in (("PROMPT", prompt), ("PRODUCT", product), ("EXPERT", expert)):
        if value is not None:
            tensors.text(name, value)
    if box is not None:
        tensors.array("BOX", "FP32", box)
    if reference is not None:
        tensors.text("REFERENCE", *(encode(picture, "REFERENCE") for picture in reference))
    if history is not None:
        tensors.text("HISTORY", json.dumps([dict(turn) for turn in history], ensure_ascii=False))
    if max_tokens is not None:
        tensors.array("MAX_TOKENS", "INT32", [max_tokens])
    return tensors


def segmentation(image: Picture, box: Sequence[float] | None, points: Sequence[Sequence[float]] | None) -> Tensors:
    """Inputs of `segment`; `points` are rows of x, y, label (1 fore-, 0 background)."""
    tensors = Tensors()
    tensors.text("IMAGE", encode(image))
    if box is not None:
        tensors.array("BOX", "FP32", box)
    if points is not None:
        tensors.array("POINTS", "FP32", points)
    return tensors


def product_action(
    action: str,
    name: str | None = None,
    images: Sequence[Picture] | None = None,
    description: str | None = None,
    prompt: str | None = None,
    box: Sequence[float] | None = None,
) -> Tensors:
    """Inputs of `products`."""
    tensors = Tensors()
    tensors.text("ACTION", action)
    for key, value in (("NAME", name), ("DESCRIPTION", description), ("PROMPT", prompt)):
        if value is not None:
            tensors.text(key, value)
    if images is not None:
        tensors.text("IMAGES", *(encode(picture, "IMAGES") for picture in images))
    if box is not None:
        tensors.array("BOX", "FP32", box)
    return tensors


def request(
    model: str, tensors: Tensors, timeout: float, outputs: Sequence[str] = (), name: str = "", region: Region | None = None
) -> Request:
    """The message for `model`. The server is told the same deadline (`timeout`, seconds) that the call is given. Large inputs are
    written to `region`, where there is one."""
    made = message("ModelInferRequest", model_name=model, id=name)
    places = tensors.written(region) if region else {}
    for key, (dtype, shape, content) in tensors.items():
        tensor = made.inputs.add(name=key, datatype=dtype, shape=shape)
        if region and key in places:
            tensor.parameters.add(key="shared_memory_region").value.string_param = region.name
            tensor.parameters.add(key="shared_memory_offset").value.int64_param = places[key]
            tensor.parameters.add(key="shared_memory_byte_size").value.int64_param = len(content)
        else:
            made.raw_input_contents.append(content)
    for output in outputs:
        made.outputs.add(name=output)
    made.parameters.add(key="timeout").value.int64_param = max(1, int(timeout * 1e6))
    return made


def leaving(name: str) -> Request:
    """The message that ends the stream of that id. It inspects nothing, but Triton wants the input."""
    tensors = Tensors()
    tensors.text("IMAGE", b"")
    made = request("inspect_stream", tensors, 1.0)
    made.parameters.add(key="cancel").value.string_param = name
    return made


def read_report(response: Response) -> Report:
    return parse(_text(response, "REPORT"), _array(response, "HEATMAP", "UINT8"))


def read_json(response: Response) -> Any:
    try:
        return json.loads(_text(response, "REPORT"))
    except ValueError as error:
        raise ServerFault("the server's answer is not JSON", "INTERNAL") from error


def read_segment(response: Response) -> Segment:
    mask, iou = _array(response, "MASK", "UINT8"), _array(response, "IOU", "FP32")
    if mask is None or iou is None or iou.size != 1:
        raise ServerFault("the server answered without MASK or IOU", "INTERNAL")
    return Segment(mask, float(iou.flat[0]), _text(response, "CUTOUT"))


def _text(response: Response, name: str) -> bytes:
    content = _content(response, name, "BYTES")
    if content is None or len(content) < 4 or struct.unpack_from("<I", content)[0] != len(content) - 4:
        raise ServerFault(f"the server answered without {name}", "INTERNAL")
    return content[4:]


def _words(response: Response) -> str:
    try:
        return _text(response, "TEXT").decode()
    except UnicodeDecodeError as error:
        raise ServerFault("the server's TEXT is not UTF-8", "INTERNAL") from error


def _array(response: Response, name: str, dtype: str) -> Any:
    content = _content(response, name, dtype)
    if content is None:
        return None
    shape = next(output.shape for output in response.outputs if output.name == name)
    try:
        return np.frombuffer(content, {"FP32": "<f4", "UINT8": "u1"}[dtype]).reshape(tuple(shape))
    except ValueError as error:
        raise ServerFault(f"the server's {name} has not the size that it says", "INTERNAL") from error


def _content(response: Response, name: str, dtype: str) -> bytes | None:
    """An output's bytes; None where there is none of that name and type."""
    for output, content in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == name and output.datatype == dtype:
            return bytes(content)
    return None


class StreamReader:
    """Turns the responses of `inspect_stream` into events, in the contract's order: a verdict, pieces, the complete report."""

    def __init__(self) -> None:
        self._began = self._complete = False

    def read(self, response: StreamResponse) -> Event | None:
        """The event of a response; None for an empty one that carries the final flag alone."""
        answer = response.infer_response
        names = {output.name for output in answer.outputs}
        if "REPORT" in names:
            return self._report(answer)
        if "TEXT" not in names:
            return None
        if not self._began or self._complete:
            raise ServerFault("the stream is out of order: text outside of its verdict and its report", "INTERNAL")
        return Piece(_words(answer))

    def _report(self, answer: Response) -> Event:
        report = read_report(answer)
        if not self._began:
            self._began = True
            return Verdict(report, _words(answer))
        self._complete = True
        return Complete(report)

    def finish(self) -> None:
        """ServerFault where the stream ended before its complete report."""
        if not self._complete:
            raise ServerFault("the stream ended before its report was complete", "INTERNAL")
