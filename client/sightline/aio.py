"""The client for asyncio: the methods of `sightline.Client`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Unpack

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from . import wire
from .errors import translated
from .pictures import Picture
from .report import Event, Report, Segment
from .wire import Options


class Client:
    """A connection to a Sightline server for one event loop; parameters and errors as in `sightline.Client`."""

    def __init__(self, url: str = "localhost:8001", timeout: float = 60.0, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.url = url
        self.timeout = timeout
        self._channel = (
            grpc.aio.secure_channel(url, credentials, options=wire.CHANNEL)
            if credentials
            else grpc.aio.insecure_channel(url, options=wire.CHANNEL)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def inspect(self, image: Picture, *, timeout: float | None = None, **options: Unpack[Options]) -> Report:
        """Verdict, masks and sentence for a picture."""
        return wire.read_report(await self._infer("inspect", wire.inspection(image, **options), timeout, wire.ANSWER))

    async def stream(self, image: Picture, *, timeout: float | None = None, **options: Unpack[Options]) -> AsyncIterator[Event]:
        """The same as events; closing the iterator (or cancelling the task) cancels the request."""
        seconds = timeout or self.timeout
        request = wire.request("inspect_stream", wire.inspection(image, **options), seconds, (*wire.ANSWER, "TEXT"))
        reader = wire.StreamReader()
        with translated(self.url):
            call = self._stub.ModelStreamInfer(iter((request,)), timeout=seconds, metadata=wire.METADATA)
            try:
                async for response in call:
                    event = reader.read(response)
                    if event is not None:
                        yield event
            finally:
                call.cancel()
        reader.finish()

    async def segment(
        self,
        image: Picture,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        timeout: float | None = None,
    ) -> Segment:
        """The part inside `box`, or at `points` (rows of x, y, label: 1 fore-, 0 background), cut out by SAM."""
        return wire.read_segment(await self._infer("segment", wire.segmentation(image, box, points), timeout))

    async def enroll(
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
        tensors = wire.product_action("enroll", name, images, description, prompt, box)
        return await self._products(tensors, timeout or max(self.timeout, 600.0))

    async def products(self, *, timeout: float | None = None) -> Any:
        """The enrolled products, as the server lists them."""
        return await self._products(wire.product_action("list"), timeout)

    async def describe(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """One product's recipe."""
        return await self._products(wire.product_action("describe", name), timeout)

    async def remove(self, name: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Forgets a product."""
        return await self._products(wire.product_action("remove", name), timeout)

    async def ready(self, timeout: float = 5.0) -> bool:
        """Whether a server answers and has its inspection model loaded."""
        try:
            return (await self._stub.ModelReady(service_pb2.ModelReadyRequest(name="inspect"), timeout=timeout)).ready
        except grpc.RpcError:
            return False

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _products(self, tensors: wire.Tensors, timeout: float | None) -> Any:
        return wire.read_json(await self._infer("products", tensors, timeout))

    async def _infer(
        self, model: str, tensors: wire.Tensors, timeout: float | None, outputs: Sequence[str] = ()
    ) -> service_pb2.ModelInferResponse:
        seconds = timeout or self.timeout
        with translated(self.url):
            return await self._stub.ModelInfer(wire.request(model, tensors, seconds, outputs), timeout=seconds, metadata=wire.METADATA)
