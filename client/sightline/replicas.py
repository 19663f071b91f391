"""The servers a client may ask: their addresses, and which one is asked next."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidInput, NotInspected
from .names import Name, name
from .policy import rest
from .protocol import Service
from .shared import Region, Shared

INT32_MAX = 2**31 - 1
OUTRUNS = 3  # in a row; then a replica rests as if it had failed
GRACE_S = 600.0  # until the connection to an address that is gone is ended: what it was sent last may run so long (enrolling)
ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
CHANNEL: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_send_message_length", INT32_MAX),
    ("grpc.max_receive_message_length", INT32_MAX),
    ("grpc.service_config", ROUND_ROBIN),  # of a name that gRPC looks up, as `localhost`: whichever of its addresses answers
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
        self.shared: Shared | None = None
        self.rests_until = 0.0
        self._failures = self._outruns = 0

    def failed(self, now: float) -> None:
        if now >= self.rests_until:  # requests that fail together count once
            self._failures += 1
            self.rests_until = now + rest(self._failures)

    def outrun(self, now: float) -> None:
        """Another replica was asked later and answered first."""
        self._outruns += 1
        if self._outruns >= OUTRUNS:
            self.failed(now)

    def answered(self) -> None:
        self._failures, self._outruns, self.rests_until = 0, 0, 0.0


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
    """Round robin over the replicas that are not resting; where all are, the one that has rested longest.

    `connect` makes the replica of an address; the name that it was found by, if any, comes with it. `retire` ends one.
    """

    def __init__(
        self,
        url: str,
        connect: Callable[[str, str | None], Replica],
        retire: Callable[[Replica], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._retire, self._clock = connect, retire, clock
        self._parts: list[str | Name] = [name(address) or address for address in addresses(url)]
        self._known: dict[str, Replica] = {}
        self._seen: dict[str, float] = {}  # when each was last among the addresses
        self._turn = 0
        self._lock = threading.Lock()
        self.current()

    @property
    def all(self) -> list[Replica]:
        """With those whose address is gone, and whose last requests may be running."""
        return list(self._known.values())

    def current(self) -> tuple[Replica, ...]:
        """Those that a request which begins now may be sent to. A name's addresses change."""
        wanted = dict(pair for part in self._parts for pair in _places(part))
        now = self._clock()
        with self._lock:
            for address, authority in wanted.items():
                if address not in self._known:
                    self._known[address] = self._connect(address, authority)
                self._seen[address] = now
            gone = [address for address in self._known if now - self._seen[address] > GRACE_S]
            retired = [self._known.pop(address) for address in gone]
            found = tuple(self._known[address] for address in wanted)
        for replica in retired:
            self._retire(replica)
        return found

    def pick(self, among: Sequence[Replica], tried: Collection[Replica] = ()) -> Replica:
        """The next of them that this request has not been sent to."""
        with self._lock:
            self._turn += not tried  # a second attempt takes nobody's turn
            turns = [among[(self._turn + i) % len(among)] for i in range(len(among))]
        left = [replica for replica in turns if replica not in tried]
        now = self._clock()
        awake = [replica for replica in left if replica.rests_until <= now]
        return awake[0] if awake else min(left, key=lambda replica: replica.rests_until)


def _places(part: str | Name) -> list[tuple[str, str | None]]:
    """Addresses, each with the name it was found by."""
    return [(part, None)] if isinstance(part, str) else [(address, part.authority) for address in part.addresses()]
