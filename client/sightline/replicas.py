"""The servers a client may ask: their addresses, and which one is asked next."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidInput, NotInspected
from .policy import rest
from .protocol import Service
from .shared import Region, Shared

INT32_MAX = 2**31 - 1
ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
CHANNEL: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_send_message_length", INT32_MAX),
    ("grpc.max_receive_message_length", INT32_MAX),
    ("grpc.service_config", ROUND_ROBIN),  # all addresses behind one name (dns:///) share the load
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # a restarted server is found again in seconds; gRPC's own limit is two minutes
)


def addresses(url: str) -> list[str]:
    """`a:8001,b:8001` as a list. One `dns:///name:8001` stands for all addresses of that name."""
    found = [address.strip() for address in url.split(",")]
    if not all(found) or len(set(found)) != len(found):
        raise InvalidInput(f"url: expected HOST:PORT[,HOST:PORT...], got {url!r}", "INVALID_ARGUMENT")
    return found


class Replica:
    """One address: its channel, and for how long it is passed over because it failed."""

    def __init__(self, address: str, channel: Any) -> None:
        self.address = address
        self.channel = channel
        self.stub: Any = Service(channel)
        self.many = address.startswith("dns:")  # a retry may come to another server of the same name
        self.shared: Shared | None = None
        self.rests_until = 0.0
        self._failures = 0

    def failed(self, now: float) -> None:
        if now >= self.rests_until:  # requests that fail together count once
            self._failures += 1
            self.rests_until = now + rest(self._failures)

    def answered(self) -> None:
        self._failures, self.rests_until = 0, 0.0


@dataclass(frozen=True)
class Attempt:
    """One request on its way to one replica, and the shared memory that holds its inputs."""

    replica: Replica
    region: Region | None = None

    def settle(self, answered: bool) -> None:
        if self.region and self.replica.shared:
            (self.replica.shared.free if answered else self.replica.shared.drop)(self.region)

    def region_is_lost(self, error: NotInspected) -> bool:
        """Whether the server does not know the region: it was started anew, and nothing was computed."""
        return self.region is not None and "shared memory region" in error.message


class Replicas:
    """Round robin over the replicas that are not resting; where all are, the one that has rested longest."""

    def __init__(self, url: str, connect: Callable[[str], Any], clock: Callable[[], float] = time.monotonic) -> None:
        self.all: Sequence[Replica] = [Replica(address, connect(address)) for address in addresses(url)]
        self._clock = clock
        self._turn = 0
        self._lock = threading.Lock()

    def any_left(self, tried: Collection[Replica]) -> bool:
        """Whether there is a replica that a request has not been sent to."""
        return any(replica.many or replica not in tried for replica in self.all)

    def pick(self, tried: Collection[Replica] = ()) -> Replica:
        """The next replica that this request has not been sent to."""
        with self._lock:
            self._turn += not tried  # a second attempt takes nobody's turn
            turns = [self.all[(self._turn + i) % len(self.all)] for i in range(len(self.all))]
        left = [replica for replica in turns if replica.many or replica not in tried]
        now = self._clock()
        awake = [replica for replica in left if replica.rests_until <= now]
        return awake[0] if awake else min(left, key=lambda replica: replica.rests_until)
