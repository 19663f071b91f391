"""Who is in flight: a small file in shared memory that every stub of one server maps.

`decode` admits a request (a row, or "queue full" at once), the last step releases it; an enrolment has a row too. The language model looks
between two tokens whether a request was cancelled or is past its deadline, because Triton tells a running step neither.

A ticket is int64 [2]: the row's token and the deadline in ns of CLOCK_MONOTONIC (one clock for all processes of a host;
0: none). [-1, 0] means "no ledger".
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np

from .contract import IN_FLIGHT_LIMIT
from .errors import cancelled, queue_full, stopping, timed_out

RUN_VARIABLE = "SIGHTLINE_RUN"
NO_TICKET = (-1, 0)
_TOKEN, _DEADLINE, _CANCELLED, _ADMITTED = range(4)
# A request that was lost (a step died with it) must not hold its row for ever.
LOST_AFTER_NS = 120 * 10**9
GRACE_NS = 10 * 10**9


class Ledger:
    """Rows of {token, deadline_ns, cancelled, admitted_ns}, all int64; a free row is all zero. Safe across threads and processes."""

    def __init__(self, path: Path | str, rows: int = IN_FLIGHT_LIMIT) -> None:
        self.rows = rows
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = (rows + 1) * 4 * 8
        if os.fstat(self._file).st_size < size:
            os.ftruncate(self._file, size)
        table = np.frombuffer(mmap.mmap(self._file, size), dtype=np.int64).reshape(rows + 1, 4)
        self._head, self._table = table[0], table[1:]  # of the head: the last token's number, and whether the server stops
        self._threads = threading.Lock()

    def admit(self, deadline_ns: int = 0) -> tuple[int, int]:
        """A ticket for a new request; RequestError UNAVAILABLE where every row is taken or the server stops."""
        now = time.monotonic_ns()
        with self._locked():
            if self._head[1]:
                raise stopping()
            free = np.flatnonzero(self._free(now))
            if not len(free):
                raise queue_full(self.rows)
            row = int(free[0])
            self._head[0] += 1
            token = int(self._head[0]) * self.rows + row
            self._table[row] = token, deadline_ns, 0, now
        return token, deadline_ns

    def close(self) -> None:
        """Admit nobody any more; who is in flight goes on."""
        with self._locked():
            self._head[1] = 1

    def release(self, ticket: tuple[int, int]) -> None:
        """Give the row back; a row that another request has taken since is left alone."""
        with self._locked():
            if (row := self._row(ticket)) is not None:
                self._table[row] = 0

    def touch(self, ticket: tuple[int, int]) -> None:
        """Not lost: who has it is still at work."""
        with self._locked():
            if (row := self._row(ticket)) is not None:
                self._table[row, _ADMITTED] = time.monotonic_ns()

    def cancel(self, ticket: tuple[int, int]) -> None:
        with self._locked():
            if (row := self._row(ticket)) is not None:
                self._table[row, _CANCELLED] = 1

    def state(self, ticket: tuple[int, int]) -> str:
        """ "live", "cancelled" or "expired". Cheap: called once a token."""
        row = self._row(ticket)
        if row is not None and self._table[row, _CANCELLED]:
            return "cancelled"
        return "expired" if 0 < int(ticket[1]) <= time.monotonic_ns() else "live"

    def check(self, ticket: tuple[int, int]) -> None:
        """RequestError where the request is not live: CANCELLED, or UNAVAILABLE past its deadline."""
        state = self.state(ticket)
        if state != "live":
            raise cancelled() if state == "cancelled" else timed_out()

    def in_flight(self) -> int:
        return int((~self._free(time.monotonic_ns())).sum())

    def _row(self, ticket: tuple[int, int]) -> int | None:
        token = int(ticket[0])
        row = token % self.rows
        return row if token > 0 and int(self._table[row, _TOKEN]) == token else None

    def _free(self, now: int) -> np.ndarray:
        deadline, admitted = self._table[:, _DEADLINE], self._table[:, _ADMITTED]
        overdue = (deadline > 0) & (now > deadline + GRACE_NS)
        return (self._table[:, _TOKEN] == 0) | overdue | (now > admitted + LOST_AFTER_NS)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads:  # flock excludes processes, not threads that share a descriptor
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def path_of(run: str) -> Path:
    return Path("/dev/shm") / f"{run}_ledger"


@cache
def shared() -> Ledger:
    """The ledger of this server run (SIGHTLINE_RUN, or the server's process id: the same for all its stubs)."""
    return Ledger(path_of(os.environ.get(RUN_VARIABLE) or str(os.getppid())))


def deadline_after(timeout_us: int) -> int:
    """The deadline in ns of CLOCK_MONOTONIC of a request's `timeout` in microseconds, from now; 0 where it has none."""
    return time.monotonic_ns() + timeout_us * 1000 if timeout_us > 0 else 0


def as_ticket(tensor: np.ndarray | None) -> tuple[int, int]:
    """The ticket in a `ticket` or `release` tensor, int64 [2]; none: NO_TICKET."""
    return NO_TICKET if tensor is None else (int(tensor[0]), int(tensor[1]))


def admit(deadline_ns: int = 0) -> tuple[int, int]:
    return shared().admit(deadline_ns)


def release(ticket: tuple[int, int]) -> None:
    shared().release(ticket)


@contextmanager
def admitted() -> Iterator[Callable[[], None]]:
    """A row for as long as the block lasts. What it yields is to be called now and then where that may be minutes."""
    ticket = admit()
    try:
        yield partial(shared().touch, ticket)
    finally:
        release(ticket)


def cancel(ticket: tuple[int, int]) -> None:
    shared().cancel(ticket)


def state(ticket: tuple[int, int]) -> str:
    return shared().state(ticket)


def check(ticket: tuple[int, int]) -> None:
    shared().check(ticket)
