"""Streams, which always end as tritonserver expects it; up to 24.11 other ends may end the server itself.

Who leaves a stream tells the server by a request of its own (parameter `cancel`: the stream's id), not by gRPC's cancellation: that one
races with the answers (server#7368, #8034). gRPC's follows where the server has not ended the stream within LEAVE_S. An error comes as
a message, and the stream is read on to its end: Triton's other way, the header `triton_grpc_error`, cancels the stream to give it a
status, and a 24.10 has ended at that (ModelStreamInferHandler::Process; the cause was not proven).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import grpc

from .errors import status_of
from .wire import Request, StreamResponse, leaving

LEAVE_S = 5.0
LATE_S = 1.0  # gRPC's deadline comes so much after the one that the server was told, or it would be a cancellation too
Metadata = tuple[tuple[str, str], ...]


class Overdue(grpc.RpcError):
    """The deadline passed before the stream's end, in gRPC's words."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return "Deadline Exceeded"


class Failed(grpc.RpcError):
    """An error message inside a stream, in gRPC's words."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self._line = line

    def code(self) -> grpc.StatusCode:
        return status_of(self._line)

    def details(self) -> str:
        return self._line


class Stream:
    """A stream under way, read by a thread of its own: so the deadline holds whatever the server does, and what is left is read to its end.

    `cancel` may come from any thread; who iterates hears of it as CANCELLED, of an error message as Failed (once the stream has ended),
    and of the deadline as Overdue.
    """

    def __init__(self, stub: Any, request: Request, seconds: float, metadata: Metadata) -> None:
        self._stub, self._id, self._end = stub, request.id, time.monotonic() + seconds
        self._flight = stub.ModelStreamInfer(iter((request,)), timeout=seconds + LATE_S, metadata=metadata)
        self._heard: SimpleQueue[Any] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True, name="stream")
        self._reader.start()

    def __iter__(self) -> Iterator[StreamResponse]:
        while True:
            heard = self._next()
            if heard is None:
                return
            if heard.error_message:
                self._rest()
                raise Failed(heard.error_message)
            yield heard

    def _next(self) -> StreamResponse | None:
        """None at the stream's end."""
        try:
            heard = self._heard.get(timeout=max(0.0, self._end - time.monotonic()))
        except Empty:
            raise Overdue from None
        if isinstance(heard, grpc.RpcError):
            raise heard
        return heard

    def _rest(self) -> None:
        with suppress(grpc.RpcError):
            while self._next():
                pass

    def cancel(self) -> threading.Thread | None:
        """Begins to end it. The thread that is over when it has ended; None where it had ended before."""
        if not self._flight.is_active():
            return None
        last = threading.Timer(LEAVE_S, self._flight.cancel)
        last.daemon = True
        last.start()
        if not self._flight.add_callback(last.cancel):
            last.cancel()
        threading.Thread(target=self._ask, daemon=True, name="leaving").start()
        return self._reader

    def _read(self) -> None:
        try:
            for response in self._flight:
                self._heard.put(response)
            self._heard.put(None)
        except grpc.RpcError as error:
            self._heard.put(error)

    def _ask(self) -> None:
        with suppress(grpc.RpcError, ValueError):  # ValueError: the channel is closed, and the stream with it
            for _ in self._stub.ModelStreamInfer(iter((leaving(self._id),)), timeout=LEAVE_S):
                pass


class AsyncStream:
    """The same for one event loop. A cancelled task leaves the stream; gRPC itself would cancel it."""

    def __init__(self, stub: Any, request: Request, seconds: float, metadata: Metadata) -> None:
        self._stub, self._id, self._end = stub, request.id, time.monotonic() + seconds
        self._flight = stub.ModelStreamInfer(iter((request,)), timeout=seconds + LATE_S, metadata=metadata)
        self._reading: asyncio.Future[Any] | None = None
        self._asked: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[StreamResponse]:
        while True:
            try:
                response = await asyncio.wait_for(self._next(), max(0.0, self._end - time.monotonic()))
            except TimeoutError:
                raise Overdue from None
            if response is grpc.aio.EOF:
                return
            if response.error_message:
                await self._rest()
                raise Failed(response.error_message)
            yield response

    async def _rest(self) -> None:
        with suppress(grpc.RpcError, TimeoutError):
            async with asyncio.timeout(self._end - time.monotonic()):
                while await self._next() is not grpc.aio.EOF:
                    pass

    async def _next(self) -> Any:
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._flight.read())
        response = await asyncio.shield(self._reading)
        self._reading = None
        return response

    def cancel(self) -> None:
        """Begins to end it."""
        if not self._flight.done():
            asyncio.get_running_loop().call_later(LEAVE_S, self._flight.cancel)
            self._asked = asyncio.ensure_future(self._ask())  # kept: the loop itself would forget it

    def abandon(self) -> asyncio.Task[None] | None:
        """Ends it where nobody iterates any more. The task that is over when it has ended; None where it had ended before."""
        if self._flight.done():
            return None
        self.cancel()
        return asyncio.ensure_future(self._read())

    async def _ask(self) -> None:
        with suppress(grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError):
            async for _ in self._stub.ModelStreamInfer(iter((leaving(self._id),)), timeout=LEAVE_S):
                pass

    async def _read(self) -> None:
        with suppress(grpc.RpcError, asyncio.CancelledError):
            while await self._next() is not grpc.aio.EOF:
                pass
