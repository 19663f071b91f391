"""The client for ordinary code. `sightline.aio.Client` has the same methods for asyncio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from . import wire
from .errors import translated
from .pictures import Picture
from .report import Event, Report, Segment
from .wire import Options


class Client:
    """A connection to a Sightline server; safe to share between threads.

    Every call has a deadline (`timeout`, seconds) which the server is told too, and raises a subclass of
    `sightline.NotInspected` (InvalidInput, UnknownProduct, Overloaded, Timeout, Unreachable, ServerFault) where there is no answer.
    """

    def __init__(self, url: str = "localhost:8001", timeout: float = 60.0, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.url = url
        self.timeout = timeout
        self._channel = (
            grpc.secure_channel(url, credentials, options=wire.CHANNEL) if credentials else grpc.insecure_channel(url, options=wire.CHANNEL)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def inspect(self, image: Picture, *, timeout: float | None = None, **options: Unpack[Options]) -> Report:
        """Verdict, masks and sentence for a picture."""
        return wire.read_report(self._infer("inspect", wire.inspection(image, **options), timeout, wire.ANSWER))

    def stream(self, image: Picture, *, timeout: float | None = None, **options: Unpack[Options]) -> Iterator[Event]:
        """The same as events: a Verdict as soon as the mask is known, Pieces of the sentence, Complete. Closing it cancels the request."""
        seconds = timeout or self.timeout
        request = wire.request("inspect_stream", wire.inspection(image, **options), seconds, (*wire.ANSWER, "TEXT"))
        reader = wire.StreamReader()
        with translated(self.url):
            call = self._stub.ModelStreamInfer(iter((request,)), timeout=seconds, metadata=wire.METADATA)
            try:
                for response in call:
                    event = reader.read(response)
                    if event is not None:
                        yield event
            finally:
                call.cancel()
        reader.finish()

    def segment(
        self,
        image: Picture,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        timeout: float | None = None,
    ) -> Segment:
        """The part inside `box`, or at `points` (rows of x, y, label: 1 fore-, 0 background), cut out by SAM."""
        return wire.read_segment(self._infer("segment", wire.segmentation(image, box, points), timeout))

    def enroll(
        self,
        name: str,
        images: Sequence[Picture],
        *,
        description: str | None = None,
        prompt: str | None = None,
        box: Sequence[float] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Registers a product from 1 to 500 pictures of normal parts; the next request may name it."""
        return self._products(wire.product_action("enroll", name, images, description, prompt, box), timeout or max(self.timeout, 600.0))

    def products(self, *, timeout: float | None = None) -> Any:
        """The enrolled products, as the server lists them."""
        return self._products(wire.product_action("list"), timeout)

    def describe(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """One product's recipe."""
        return self._products(wire.product_action("describe", name), timeout)

    def remove(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Forgets a product."""
        return self._products(wire.product_action("remove", name), timeout)

    def ready(self, timeout: float = 5.0) -> bool:
        """Whether a server answers and has its inspection model loaded. (Its health port says whether inspections pass.)"""
        try:
            return self._stub.ModelReady(service_pb2.ModelReadyRequest(name="inspect"), timeout=timeout).ready
        except grpc.RpcError:
            return False

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _products(self, tensors: wire.Tensors, timeout: float | None) -> Any:
        return wire.read_json(self._infer("products", tensors, timeout))

    def _infer(
        self, model: str, tensors: wire.Tensors, timeout: float | None, outputs: Sequence[str] = ()
    ) -> service_pb2.ModelInferResponse:
        seconds = timeout or self.timeout
        with translated(self.url):
            return self._stub.ModelInfer(wire.request(model, tensors, seconds, outputs), timeout=seconds, metadata=wire.METADATA)
