"""The client for asyncio: the methods of `sightline.Client`, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar, Unpack

import grpc
import grpc.aio

from . import calls
from .base import CLOSED, ChannelOptions, Connection, deadline
from .calls import Call, Events, Options, Sending
from .errors import Cancelled, NotInspected
from .leaving import LEAVE_S, AsyncStream
from .pictures import Picture
from .protocol import Service, message
from .race import Race
from .replicas import Attempt, Replica
from .report import Event, Report, Segment
from .session import AsyncChat
from .shared import Region, Shared

T = TypeVar("T")


async def _made(shared: Shared, size: int, seconds: float) -> Region | None:
    """A new region. The thread that makes it goes on when our task is cancelled: then the next request may have it."""

    def freed(made: asyncio.Future[Region | None]) -> None:
        if not made.cancelled() and (region := made.result()):
            shared.free(region)

    making = asyncio.ensure_future(asyncio.to_thread(shared.make, size, seconds))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(freed)
        raise


class Client(Connection):
    """A connection for one event loop; parameters and errors as in `sightline.Client`. Cancelling a task cancels its request."""

    _grpc, _gate = grpc.aio, asyncio.Semaphore
    _places: asyncio.Semaphore

    async def inspect(self, image: Picture, **options: Unpack[Options]) -> Report:
        """Verdict, masks and sentence for a picture."""
        return await self._run(partial(calls.inspect, image, **options))

    def stream(self, image: Picture, **options: Unpack[Options]) -> AsyncIterator[Event]:
        """The same as events; closing the iterator (or cancelling the task) cancels the request."""
        return self._stream(partial(calls.stream, image, **options))

    async def segment(
        self,
        image: Picture,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        **sending: Unpack[Sending],
    ) -> Segment:
        """The part inside `box`, or at `points` (rows of x, y, label: 1 fore-, 0 background), cut out by SAM."""
        return await self._run(partial(calls.segment, image, box, points, **sending))

    async def enroll(
        self,
        name: str,
        images: Sequence[Picture],
        *,
        description: str | None = None,
        prompt: str | None = None,
        box: Sequence[float] | None = None,
        **sending: Unpack[Sending],
    ) -> dict[str, Any]:
        """Registers a product from 1 to 500 pictures of normal parts; the next request may name it. Never sent twice."""
        return await self._run(partial(calls.enroll, name, images, description, prompt, box, self.timeout, **sending))

    async def products(self, **sending: Unpack[Sending]) -> Any:
        """The enrolled products, as the server lists them."""
        return await self._run(partial(calls.product, "list", **sending))

    async def describe(self, name: str, **sending: Unpack[Sending]) -> dict[str, Any]:
        """One product's recipe."""
        return await self._run(partial(calls.product, "describe", name, **sending))

    async def remove(self, name: str, **sending: Unpack[Sending]) -> dict[str, Any]:
        """Forgets a product. Never sent twice."""
        return await self._run(partial(calls.product, "remove", name, **sending))

    def chat(self, image: Picture, **options: Unpack[Options]) -> AsyncChat:
        """A dialogue about one picture; `options` hold for each of its questions."""
        return AsyncChat(self, image, options)

    async def ready(self, timeout: float = 5.0) -> bool:
        """Whether a server answers and has its inspection model loaded."""
        return any(await asyncio.gather(*(self._ready(replica, timeout) for replica in self._replicas.current())))

    async def close(self) -> None:
        """Ends the connections; calls still running raise Cancelled. Streams that were left are given LEAVE_S to end."""
        self._closed = True
        if self._left:
            await asyncio.wait(self._left, timeout=LEAVE_S)
        await asyncio.gather(*map(self._end, self._replicas.all))
        for channel in self._blocking:
            channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _blocking_stub(self, replica: Replica, options: ChannelOptions) -> Any:
        """A connection of its own: the loop's cannot be used from a thread. It is made when it is needed."""
        channel = self._channel(grpc, replica.address, options)
        self._blocking.append(channel)
        return Service(channel)

    def _end(self, replica: Replica) -> asyncio.Task[None]:
        """Begins to; the loop itself would forget the task."""
        task = asyncio.create_task(self._ended(replica))
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)
        return task

    async def _ended(self, replica: Replica) -> None:
        if replica.shared:
            await asyncio.to_thread(replica.shared.close)
        await replica.channel.close()

    async def _ready(self, replica: Replica, timeout: float) -> bool:
        try:
            return bool((await replica.stub.ModelReady(message("ModelReadyRequest", name="inspect"), timeout=timeout)).ready)
        except grpc.RpcError:
            return False
        except grpc.aio.UsageError:  # gRPC's word for a closed channel
            raise Cancelled(CLOSED, "CANCELLED") from None

    async def _run(self, make: Callable[[], Call[T]]) -> T:
        async with self._sending(make) as (call, race):
            return await self._answer(call, race)

    @asynccontextmanager
    async def _sending(self, make: Callable[[], Call[T]]) -> AsyncIterator[tuple[Call[T], Race]]:
        """A place among the requests in flight, and the request's names on whatever goes wrong."""
        call = (await asyncio.to_thread(make)).named(self._policy, self.timeout)  # reading and encoding pictures takes a while
        end = deadline(call)
        try:
            with ExitStack() as left:
                self._register(call)
                left.callback(self._forget, call)
                await self._enter(end)
                left.callback(self._places.release)
                yield call, self._race(call, end)
        except NotInspected as error:
            raise call.blame(error) from error.__cause__

    async def _enter(self, end: float) -> None:
        if self._places.locked() and self._policy.when_full == "refuse":
            raise self._full()
        try:
            async with asyncio.timeout(end - time.monotonic()):
                await self._places.acquire()
        except TimeoutError:
            raise self._too_late() from None

    async def _answer(self, call: Call[T], race: Race) -> T:
        ended: asyncio.Queue[Any] = asyncio.Queue()
        running: dict[Any, Attempt] = {}
        await self._begin(call, race, running, ended)
        try:
            while True:
                try:
                    async with asyncio.timeout(race.wait()):
                        done = await ended.get()
                except TimeoutError:
                    if race.due():
                        await self._begin(call, race, running, ended)
                    continue
                attempt = running.pop(done)
                code = await done.code()
                attempt.settle(code is grpc.StatusCode.OK)
                if code is grpc.StatusCode.OK:
                    race.won(attempt.replica, [other.replica for other in running.values()])
                    return call.answer(await done)
                error = self._error(call, attempt.replica, code, await done.details())
                if attempt.region_is_lost(error) and attempt.replica.shared:
                    attempt.replica.shared.lost()
                    self._send(call, race, Attempt(attempt.replica), running, ended)
                elif not race.lost(attempt.replica, error, bool(running)):
                    raise error
        finally:
            for other, attempt in running.items():
                other.cancel()
                attempt.settle(False)

    async def _begin(self, call: Call[T], race: Race, running: dict[Any, Attempt], ended: asyncio.Queue[Any]) -> None:
        self._check_wanted(call)
        replica, size = race.start(), call.tensors.large()
        shared = replica.shared if replica.shared and replica.shared.wants(size) else None
        region = (shared.take(size) or await _made(shared, size, race.left())) if shared else None
        self._send(call, race, Attempt(replica, region), running, ended)

    def _send(self, call: Call[T], race: Race, attempt: Attempt, running: dict[Any, Attempt], ended: asyncio.Queue[Any]) -> None:
        seconds = race.left()
        request = call.message(seconds, attempt.region)
        try:
            flight = attempt.replica.stub.ModelInfer(request, timeout=seconds, metadata=call.metadata())
        except grpc.aio.UsageError:  # gRPC's word for a closed channel
            attempt.settle(False)
            raise Cancelled(CLOSED, "CANCELLED") from None
        running[flight] = attempt
        self._flies(call, flight)
        flight.add_done_callback(ended.put_nowait)

    async def _stream(self, make: Callable[[], Call[Report]]) -> AsyncIterator[Event]:
        async with self._sending(make) as (call, race):
            while True:
                events, replica = Events(call), race.start()
                flight = self._open(call, race.left(), replica)
                try:
                    async for response in flight:
                        event = events.read(response)
                        if event is not None:
                            yield event
                    events.finish()
                    replica.answered()
                    return
                except grpc.RpcError as failure:
                    error = self._error(call, replica, failure.code(), failure.details())
                    if events.began or not race.lost(replica, error, False):
                        raise error from None
                except asyncio.CancelledError:  # gRPC's word for `cancel` too; the task's own goes on
                    self._check_wanted(call)
                    raise
                finally:
                    self._leave(flight)  # closed early, or an answer that is none
                await asyncio.sleep(race.wait() or 0.0)

    def _leave(self, stream: AsyncStream) -> None:
        if ending := stream.abandon():
            self._left.add(ending)
            ending.add_done_callback(self._left.discard)

    def _open(self, call: Call[Report], seconds: float, replica: Replica) -> AsyncStream:
        """A stream that has begun."""
        self._check_wanted(call)
        try:
            flight = AsyncStream(replica.stub, call.message(seconds), seconds, call.metadata())
        except grpc.aio.UsageError:  # gRPC's word for a closed channel
            raise Cancelled(CLOSED, "CANCELLED") from None
        self._flies(call, flight)
        return flight
