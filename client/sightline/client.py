"""The client for ordinary code. `sightline.aio.Client` has the same methods for asyncio."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, Unpack

import grpc

from . import calls
from .base import CLOSED, Connection, deadline
from .calls import Call, Events, Options, Sending
from .errors import Cancelled, NotInspected
from .leaving import LEAVE_S, Stream
from .pictures import Picture
from .protocol import message
from .race import Race
from .replicas import Attempt, Replica
from .report import Event, Report, Segment
from .session import Chat

T = TypeVar("T")


class Client(Connection):
    """A connection to a Sightline server, or to several; safe to share between threads.

    Every call has a deadline (`timeout`, seconds) which the server is told too, and raises a subclass of
    `sightline.NotInspected` (InvalidInput, UnknownProduct, Overloaded, Timeout, Unreachable, Cancelled, ServerFault) where there is
    no answer. Parameters: `url` (`HOST:PORT`, several with commas between, or `dns:///NAME:PORT`), `timeout`, `tls` and
    `sightline.Settings`.
    """

    _grpc, _gate = grpc, threading.BoundedSemaphore
    _places: threading.BoundedSemaphore

    def inspect(self, image: Picture, **options: Unpack[Options]) -> Report:
        """Verdict, masks and sentence for a picture."""
        return self._run(calls.inspect(image, **options))

    def stream(self, image: Picture, **options: Unpack[Options]) -> Iterator[Event]:
        """The same as events: a Verdict as soon as the mask is known, Pieces of the sentence, Complete. Closing it cancels the request."""
        return self._stream(calls.stream(image, **options))

    def segment(
        self,
        image: Picture,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        **sending: Unpack[Sending],
    ) -> Segment:
        """The part inside `box`, or at `points` (rows of x, y, label: 1 fore-, 0 background), cut out by SAM."""
        return self._run(calls.segment(image, box, points, **sending))

    def enroll(
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
        return self._run(calls.enroll(name, images, description, prompt, box, self.timeout, **sending))

    def products(self, **sending: Unpack[Sending]) -> Any:
        """The enrolled products, as the server lists them."""
        return self._run(calls.product("list", **sending))

    def describe(self, name: str, **sending: Unpack[Sending]) -> dict[str, Any]:
        """One product's recipe."""
        return self._run(calls.product("describe", name, **sending))

    def remove(self, name: str, **sending: Unpack[Sending]) -> dict[str, Any]:
        """Forgets a product. Never sent twice."""
        return self._run(calls.product("remove", name, **sending))

    def chat(self, image: Picture, **options: Unpack[Options]) -> Chat:
        """A dialogue about one picture; `options` hold for each of its questions."""
        return Chat(self, image, options)

    def ready(self, timeout: float = 5.0) -> bool:
        """Whether a server answers and has its inspection model loaded. (Its health port says whether inspections pass.)"""
        return any(self._ready(replica, timeout) for replica in self._replicas.current())

    def close(self) -> None:
        """Ends the connections; calls still running raise Cancelled. Streams that were left are given LEAVE_S to end."""
        self._closed = True
        end = time.monotonic() + LEAVE_S
        for thread in self._left:
            thread.join(max(0.0, end - time.monotonic()))
        for replica in self._replicas.all:
            self._end(replica)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, replica: Replica) -> None:
        if replica.shared:
            replica.shared.close()
        replica.channel.close()

    def _ready(self, replica: Replica, timeout: float) -> bool:
        try:
            return bool(replica.stub.ModelReady(message("ModelReadyRequest", name="inspect"), timeout=timeout).ready)
        except grpc.RpcError:
            return False
        except ValueError:  # gRPC's word for a closed channel
            raise Cancelled(CLOSED, "CANCELLED") from None

    def _run(self, call: Call[T]) -> T:
        with self._sending(call) as (call, race):
            return self._answer(call, race)

    @contextmanager
    def _sending(self, call: Call[T]) -> Iterator[tuple[Call[T], Race]]:
        """A place among the requests in flight, and the request's names on whatever goes wrong."""
        call = call.named(self._policy, self.timeout)
        end = deadline(call)
        try:
            with ExitStack() as left:
                self._register(call)
                left.callback(self._forget, call)
                self._enter(end)
                left.callback(self._places.release)
                yield call, self._race(call, end)
        except NotInspected as error:
            raise call.blame(error) from error.__cause__

    def _enter(self, end: float) -> None:
        if self._places.acquire(blocking=False):
            return
        if self._policy.when_full == "refuse":
            raise self._full()
        if not self._places.acquire(timeout=max(0.0, end - time.monotonic())):
            raise self._too_late()

    def _answer(self, call: Call[T], race: Race) -> T:
        ended: SimpleQueue[Any] = SimpleQueue()
        running: dict[Any, Attempt] = {}
        self._begin(call, race, running, ended)
        try:
            while True:
                try:
                    done = ended.get(timeout=race.wait())
                except Empty:
                    if race.due():
                        self._begin(call, race, running, ended)
                    continue
                attempt = running.pop(done)
                attempt.settle(done.code() is grpc.StatusCode.OK)
                if done.code() is grpc.StatusCode.OK:
                    race.won(attempt.replica, [other.replica for other in running.values()])
                    return call.answer(done.result())
                error = self._error(call, attempt.replica, done.code(), done.details())
                if attempt.region_is_lost(error) and attempt.replica.shared:
                    attempt.replica.shared.lost()
                    self._send(call, race, Attempt(attempt.replica), running, ended)
                elif not race.lost(attempt.replica, error, bool(running)):
                    raise error
        finally:
            for other, attempt in running.items():
                other.cancel()
                attempt.settle(False)

    def _begin(self, call: Call[T], race: Race, running: dict[Any, Attempt], ended: SimpleQueue[Any]) -> None:
        self._check_wanted(call)
        replica, size = race.start(), call.tensors.large()
        shared = replica.shared if replica.shared and replica.shared.wants(size) else None
        region = (shared.take(size) or shared.make(size, race.left())) if shared else None
        self._send(call, race, Attempt(replica, region), running, ended)

    def _send(self, call: Call[T], race: Race, attempt: Attempt, running: dict[Any, Attempt], ended: SimpleQueue[Any]) -> None:
        seconds = race.left()
        request = call.message(seconds, attempt.region)
        try:
            flight = attempt.replica.stub.ModelInfer.future(request, timeout=seconds, metadata=call.metadata())
        except ValueError:  # gRPC's word for a closed channel
            attempt.settle(False)
            raise Cancelled(CLOSED, "CANCELLED") from None
        running[flight] = attempt
        self._flies(call, flight)
        flight.add_done_callback(ended.put)

    def _stream(self, call: Call[Report]) -> Iterator[Event]:
        with self._sending(call) as (call, race):
            while True:
                events, replica = Events(call), race.start()
                flight = self._open(call, race.left(), replica)
                try:
                    for response in flight:
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
                finally:
                    self._leave(flight)  # closed early, or an answer that is none
                time.sleep(race.wait() or 0.0)

    def _leave(self, stream: Stream) -> None:
        if ending := stream.cancel():
            with self._names:
                self._left = {thread for thread in self._left if thread.is_alive()} | {ending}

    def _open(self, call: Call[Report], seconds: float, replica: Replica) -> Stream:
        """A stream that has begun."""
        self._check_wanted(call)
        try:
            flight = Stream(replica.stub, call.message(seconds), seconds, call.metadata())
        except ValueError:  # gRPC's word for a closed channel
            raise Cancelled(CLOSED, "CANCELLED") from None
        self._flies(call, flight)
        return flight
