"""What both clients are made of: addresses, policy, and the requests in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar, Unpack

import grpc

from .calls import Call
from .errors import Cancelled, InvalidInput, NotInspected, Overloaded, Timeout, from_status
from .policy import Budget, Policy, Settings
from .race import Race
from .replicas import CHANNEL, Replica, Replicas
from .shared import Shared, is_here
from .tls import Tls

T = TypeVar("T")
ChannelOptions: TypeAlias = Sequence[tuple[str, str | int]]
CLOSED = "the client is closed"


class Connection:
    """
    Args:
        url: `HOST:PORT`; several with commas between; or `dns:///NAME:PORT` for the servers at all addresses of that name.
        timeout: deadline of a call in seconds, where it names none of its own.
        tls: certificates of the connection; `credentials` are gRPC's own form of them.
        settings: retries, hedging, requests at a time, traces, shared memory (`sightline.Settings`).
    """

    _grpc: Any
    _gate: Any  # makes what lets so many requests through at a time
    _end: Any  # ends the connection of a replica

    def __init__(
        self,
        url: str = "localhost:8001",
        timeout: float = 60.0,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        tls: Tls | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._policy, self._budget = Policy(**settings), Budget()
        self._places: Any = self._gate(self._policy.max_in_flight)
        self._blocking: list[grpc.Channel] = []  # for the shared memory, where calls are not
        self._ends: set[Any] = set()  # connections that are being ended meanwhile
        self._secret = tls.credentials() if tls else credentials
        self._renamed = bool(tls and tls.name)
        self._options: ChannelOptions = (*CHANNEL, *(tls.options() if tls else ()))
        self._replicas = Replicas(url, self._replica, self._end)
        self._flights: dict[str, list[Any]] = {}  # of every request from its beginning, so that it can be given up at any time
        self._dropped: set[str] = set()
        self._left: set[Any] = set()  # what ends the streams that were left
        self._names = threading.Lock()  # of all three
        self._closed = False

    def cancel(self, request_id: str) -> bool:
        """Gives up a request of this client that is running elsewhere: its call raises Cancelled. Whether there was one."""
        with self._names:
            flights = self._flights.get(request_id)
            if flights is None:
                return False
            self._dropped.add(request_id)
            flights = list(flights)
        for flight in flights:
            flight.cancel()
        return True

    def _replica(self, address: str, authority: str | None) -> Replica:
        """`authority`: the name that the address was found by; the server's certificate is for the name."""
        named = authority and not self._renamed
        options = (*self._options, *((("grpc.default_authority", authority),) if named else ()))
        replica = Replica(address, self._channel(self._grpc, address, options))
        if self._policy.shared_memory and is_here(address):
            replica.shared = Shared(self._blocking_stub(replica, options))
        return replica

    def _channel(self, kind: Any, address: str, options: ChannelOptions) -> Any:
        """`kind`: gRPC's module, blocking or of asyncio."""
        if self._secret:
            return kind.secure_channel(address, self._secret, options=options)
        return kind.insecure_channel(address, options=options)

    def _blocking_stub(self, replica: Replica, options: ChannelOptions) -> Any:
        """What the shared memory is registered with."""
        return replica.stub

    def _register(self, call: Call[Any]) -> None:
        if self._closed:
            raise Cancelled(CLOSED, "CANCELLED")
        with self._names:
            if call.request_id in self._flights:
                raise InvalidInput(f"request_id: {call.request_id!r} is in flight already", "INVALID_ARGUMENT")
            self._flights[call.request_id] = []

    def _forget(self, call: Call[Any]) -> None:
        with self._names:
            del self._flights[call.request_id]
            self._dropped.discard(call.request_id)

    def _race(self, call: Call[Any], deadline: float) -> Race:
        return Race(self._replicas, self._policy, self._budget, deadline, call.safe)

    def _check_wanted(self, call: Call[Any]) -> None:
        """Cancelled where the request was given up; asked before each attempt, because that may have been while it waited."""
        if self._closed or call.request_id in self._dropped:
            raise self._given_up()

    def _flies(self, call: Call[Any], flight: Any) -> None:
        """An attempt is on its way. One that `cancel` has just missed is given up here."""
        with self._names:
            self._flights[call.request_id].append(flight)
            dropped = call.request_id in self._dropped
        if dropped:
            flight.cancel()

    def _given_up(self) -> Cancelled:
        return Cancelled(CLOSED if self._closed else "the request was given up", "CANCELLED")

    def _error(self, call: Call[Any], replica: Replica, code: grpc.StatusCode, details: str | None) -> NotInspected:
        """What a status means here. A request that nobody has given up is cancelled by a server that stops."""
        if code is not grpc.StatusCode.CANCELLED:
            return from_status(code, details, replica.address)
        if self._closed or call.request_id in self._dropped:
            return self._given_up()
        return from_status(grpc.StatusCode.UNAVAILABLE, "the server cancelled the request", replica.address)

    def _full(self) -> Overloaded:
        return Overloaded(f"queue full: {self._policy.max_in_flight} requests of this client are in flight", "UNAVAILABLE")

    def _too_late(self) -> Timeout:
        return Timeout(f"timeout: {self._policy.max_in_flight} requests of this client were in flight", "DEADLINE_EXCEEDED")


def deadline(call: Call[Any]) -> float:
    return time.monotonic() + (call.timeout or 0.0)
