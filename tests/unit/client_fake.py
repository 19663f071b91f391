"""A server in this process that speaks Triton's gRPC protocol and answers what a test tells it to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from pycocotools import mask as coco
from tritonclient.grpc import service_pb2, service_pb2_grpc

Handler = Callable[["Call"], Iterator[dict[str, Any]]]


class Refuse(Exception):
    """An error of the server; `torn`: of the connection, which ends a stream."""

    def __init__(self, code: grpc.StatusCode, message: str, torn: bool = False) -> None:
        self.code, self.message, self.torn = code, message, torn


class Call:
    """One request as the handler sees it: inputs as numpy arrays, BYTES as lists of bytes."""

    def __init__(self, message: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> None:
        self.model = message.model_name
        self.id = message.id
        self.timeout_us = message.parameters["timeout"].int64_param
        self.outputs = [output.name for output in message.outputs]
        self.metadata = dict(context.invocation_metadata())
        self.context = context
        self.inputs = {tensor.name: _value(tensor, raw) for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)}


def _value(tensor: Any, raw: bytes) -> Any:
    if tensor.datatype != "BYTES":
        return np.frombuffer(raw, {"FP32": np.float32, "INT32": np.int32}[tensor.datatype]).reshape(tensor.shape)
    values = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        values.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    assert list(tensor.shape) == [len(values)]
    return values


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`handler(call)` yields a dict of outputs per response, or raises `Refuse`."""

    def __init__(self, handler: Handler, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> None:
        self.handler = handler
        self.calls: list[Call] = []
        self.left: list[str] = []  # ids of streams that their clients left
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        add = self._server.add_insecure_port
        port = self._server.add_secure_port(address, credentials) if credentials else add(address)
        self.url = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        try:
            return next(self._answer(request, context))
        except Refuse as refuse:
            context.abort(refuse.code, refuse.message)

    def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        for request in requests:
            if "cancel" in request.parameters:
                self.left.append(request.parameters["cancel"].string_param)
                continue
            try:
                for response in self._answer(request, context):
                    if request.id in self.left:
                        raise Refuse(grpc.StatusCode.CANCELLED, "CANCELLED: the client left")
                    yield service_pb2.ModelStreamInferResponse(infer_response=response)
            except Refuse as refuse:  # as Triton does: a text without a status, and the stream goes on
                if refuse.torn:
                    context.abort(refuse.code, refuse.message)
                yield service_pb2.ModelStreamInferResponse(error_message=refuse.message)

    def _answer(self, request: Any, context: Any) -> Iterator[Any]:
        call = Call(request, context)
        self.calls.append(call)
        for outputs in self.handler(call):
            yield _response(outputs, call.id)


def _response(outputs: dict[str, Any], name: str = "") -> Any:
    response = service_pb2.ModelInferResponse(id=name)
    for name, value in outputs.items():
        if isinstance(value, np.ndarray):
            kind = {"uint8": "UINT8", "float32": "FP32"}[value.dtype.name]
            response.outputs.add(name=name, datatype=kind, shape=value.shape)
            response.raw_output_contents.append(value.tobytes())
        else:
            data = value.encode() if isinstance(value, str) else value
            response.outputs.add(name=name, datatype="BYTES", shape=[1])
            response.raw_output_contents.append(len(data).to_bytes(4, "little") + data)
    return response


def region(mask: np.ndarray) -> dict[str, Any]:
    """Box and run lengths of a mask, as pycocotools writes them."""
    ys, xs = np.nonzero(mask)
    runs = coco.encode(np.asfortranarray(mask))
    box = [float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)]
    return {"box": box, "rle": {"size": list(mask.shape), "counts": runs["counts"].decode()}}


def report(masks: tuple[np.ndarray, ...] = (), size: tuple[int, int] = (30, 40), **changes: Any) -> dict[str, Any]:
    """A report of the contract: an anomaly where there are masks."""
    defects = [{**region(mask), "area": int(mask.sum()), "score": 0.93, "location": "top left"} for mask in masks]
    values = {
        "schema": "sightline/1", "verdict": "anomaly" if masks else "normal", "score": 0.93 if masks else 0.08,
        "text": "Yes, there is a crack." if masks else "No, there is no anomaly.", "locations": ["top left"] if masks else [],
        "defects": defects, "part": None, "experts": [], "size": list(size), "prompt": "Is there any anomaly?", "tokens": 7,
        "profile": "tiny", "artefacts": {"lisa": "sha256:0"}, "timings_ms": {"total": 10.0}, "time_to_mask_ms": 4.0,
    }  # fmt: skip
    return {**values, **changes}


def crack(size: tuple[int, int] = (30, 40)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[3:6, 4:20] = 1
    return mask


def answer(call: Call) -> Iterator[dict[str, Any]]:
    """What a healthy server says: a picture whose bytes hold `bad` is an anomaly, one that holds `broken` cannot be decoded."""
    if call.model == "products":
        yield {"REPORT": json.dumps({"products": [{"name": "cell", "images": 3}]})}
        return
    if call.model == "segment":
        yield {"MASK": crack(), "IOU": np.array([0.98], np.float32), "CUTOUT": b"\x89PNG"}
        return
    image = call.inputs["IMAGE"][0]
    if b"broken" in image:
        raise Refuse(grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'inspect', INVALID_ARGUMENT: IMAGE: cannot be decoded, expected JPEG")
    values = report((crack(),) if b"bad" in image else ())
    whole = {"REPORT": json.dumps(values), "HEATMAP": np.full((3, 4), 128, np.uint8)}
    if call.model == "inspect":
        yield whole
        return
    words = values["text"].split(" ")
    yield {"REPORT": json.dumps({**values, "text": words[0]}), "HEATMAP": whole["HEATMAP"], "TEXT": words[0]}
    for word in words[1:]:
        yield {"TEXT": " " + word}
    yield {**whole, "TEXT": values["text"]}


@contextmanager
def busy_pair() -> Iterator[tuple[FakeTriton, FakeTriton]]:
    """Two servers that refuse whatever they are sent."""

    def refuse(call: Call) -> Iterator[dict[str, object]]:
        raise Refuse(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: queue full")
        yield {}

    fakes = FakeTriton(refuse), FakeTriton(refuse)
    yield fakes
    for fake in fakes:
        fake.stop()
