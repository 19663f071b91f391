"""How requests are sent: how often, when a second time, and how many at once. Decisions only; no network here."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Literal, TypedDict

from .errors import InvalidInput

RATIO, CAPACITY = 0.2, 10.0  # of the retry budget: what a request adds, and the most it can hold
BACKOFF_S, BACKOFF_MAX_S = 0.05, 1.0
REST_S, REST_MAX_S = 0.5, 5.0


class Settings(TypedDict, total=False):
    """What a client may be told beside address and deadline.

    attempts: how many replicas one request may be sent to when they are UNAVAILABLE (3; 1: no retries). A replica is asked once.
    hedge_after: seconds without an answer after which another replica is asked too; the first answer wins (None: never).
    max_in_flight: requests of this client at a time (64). when_full: "wait" for a free place until the deadline, or "refuse".
    trace: begin a W3C trace for each request that brings no traceparent of its own (False).
    shared_memory: hand large inputs to a server on this host in shared memory where it allows that (True).
    """

    attempts: int
    hedge_after: float | None
    max_in_flight: int
    when_full: Literal["wait", "refuse"]
    trace: bool
    shared_memory: bool


@dataclass(frozen=True)
class Policy:
    """`Settings`, checked and complete."""

    attempts: int = 3
    hedge_after: float | None = None
    max_in_flight: int = 64
    when_full: Literal["wait", "refuse"] = "wait"
    trace: bool = False
    shared_memory: bool = True

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.max_in_flight < 1:
            raise InvalidInput("attempts and max_in_flight: expected at least 1", "INVALID_ARGUMENT")
        if self.hedge_after is not None and not 0 <= self.hedge_after < float("inf"):
            raise InvalidInput(f"hedge_after: expected seconds, got {self.hedge_after}", "INVALID_ARGUMENT")
        if self.when_full not in ("wait", "refuse"):
            raise InvalidInput(f"when_full: expected 'wait' or 'refuse', got {self.when_full!r}", "INVALID_ARGUMENT")


class Budget:
    """A token bucket as in gRPC's retry design (A6): retries and hedges stay below a share of the requests, so that clients do
    not multiply the load of servers that are failing already. Safe to share between threads."""

    def __init__(self, ratio: float = RATIO, capacity: float = CAPACITY) -> None:
        self._ratio, self._capacity, self._tokens = ratio, capacity, capacity
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A request was sent for the first time."""
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + self._ratio)

    def spend(self) -> bool:
        """Whether a request may be sent once more."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


def backoff(attempt: int) -> float:
    """Seconds before retry number `attempt` (from 1), with full jitter so that clients do not come back together."""
    return random.uniform(0, min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** (attempt - 1)))


def rest(failures: int) -> float:
    """Seconds for which a replica is passed over after so many failures in a row."""
    return random.uniform(0.75, 1.0) * min(REST_MAX_S, REST_S * 2.0 ** min(failures - 1, 10))
