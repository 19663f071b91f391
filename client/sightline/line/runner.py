"""The line itself: takt, bounded queue, inspection, spool, sinks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any, Literal

from ..errors import Cancelled, Overloaded
from .delivery import Delivery
from .inspection import Client, Inspector, Reinspection
from .intake import Intake
from .parts import Part, Result, Sink, Source
from .stats import Counter, Stats
from .store import Store
from .turns import Turns

LOOK_S = 0.05
SWEEP_S = 2.0


@dataclass(frozen=True)
class Pace:
    """
    Args:
        takt: seconds from one part to the next.
        timeout: seconds in which a part must be inspected. again: those of a second inspection, which nobody waits for.
        queue: parts that may wait for their inspection.
        workers: inspections at a time.
        when_full: "wait" holds the source; "spool" reports the part as not inspected in its turn and inspects it later, and reports a
            part for each takt that passed during a slow take.
        stop: seconds that inspections, then sinks, are given at the end.
    """

    takt: float = 1.0
    timeout: float = 10.0
    again: float = 60.0
    queue: int = 8
    workers: int = 2
    when_full: Literal["wait", "spool"] = "spool"
    stop: float = 10.0


class Line:
    """Every part that was taken in gets one record in its turn, whatever happens; a later inspection is a correction."""

    def __init__(
        self,
        name: str,
        client: Client,
        source: Source,
        sinks: Mapping[str, Sink],
        store: Store,
        pace: Pace,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._store, self._pace = store, pace
        self._counter = Counter()
        self._queue: Queue[Part] = Queue(pace.queue)
        self._stopping, self._over, self._late = threading.Event(), threading.Event(), threading.Event()
        self._broken: BaseException | None = None
        store.enrol_sinks(sinks)
        self._deliveries = [Delivery(key, sink, store, self._counter) for key, sink in sinks.items()]
        self._turns = Turns(store, self._counter, self._wake_sinks)
        self._intake = Intake(source, pace.takt, pace.when_full == "spool", self._turns, self._counter, self._enter)
        self._inspector = Inspector(client, name, options or {}, self._counter)
        self._spool = Reinspection(self._inspector, pace.again, store, self._turns, self._queue.empty)

    def run(self, told: Callable[[Stats], None] | None = None, every: float = 10.0) -> Stats:
        """Until the source has ended and nothing in the spool can be inspected, or `stop` is called. `told` gets the statistics at times.

        Raises what the line cannot live with, as a full disk; parts taken in until then are found again by the next start.
        """
        ended = Cancelled("the line ended before this part was inspected", "CANCELLED")
        self._turns.end(self._store.unfinished(), Result.failed(ended, again=True))
        tasks = [self._work] * self._pace.workers + [lambda: self._spool.run(self._over), lambda: self._keep(told, every)]
        threads = [threading.Thread(target=self._guarded, args=(task,), daemon=True) for task in tasks]
        for thread in (*self._deliveries, *threads):
            thread.start()
        try:
            self._intake.run(self._stopping)
            self._await_spool()
        finally:
            self._shut_down(threads)
        if self._broken:
            raise self._broken
        return self.stats()

    def stop(self) -> None:
        """Ends the intake; what was taken in is still inspected and delivered. Safe in a signal handler."""
        self._stopping.set()

    def stats(self) -> Stats:
        return self._counter.now(self._store.spooled())

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._broken = error
            self._stopping.set()

    def _wake_sinks(self) -> None:
        for delivery in self._deliveries:
            delivery.wake()

    def _enter(self, part: Part) -> None:
        while True:
            try:
                self._queue.put(part, block=self._pace.when_full == "wait", timeout=LOOK_S)
                return
            except Full:
                if self._pace.when_full == "spool" or self._stopping.is_set():
                    error = Overloaded(f"queue full: {self._pace.queue} parts of this line are waiting", "UNAVAILABLE")
                    self._turns.end([part], Result.failed(error, again=True))
                    return

    def _work(self) -> None:
        while True:
            try:
                part = self._queue.get(timeout=LOOK_S)
            except Empty:
                if self._over.is_set():
                    return
                continue
            stopped = Result.failed(Cancelled("the line was stopped", "CANCELLED"), again=True)
            self._turns.end([part], stopped if self._late.is_set() else self._inspector.inspect(part, self._pace.timeout))

    def _await_spool(self) -> None:
        """After the source's end: until every part has its verdict, or its request is refused, or somebody stops the line."""
        while (self._turns.unfinished() or self._store.spooled() > self._spool.refused) and not self._stopping.wait(LOOK_S):
            pass

    def _keep(self, told: Callable[[Stats], None] | None, every: float) -> None:
        """Sweeps the store and tells the statistics."""
        next_told = time.monotonic() + every
        while not self._over.wait(SWEEP_S):
            self._store.sweep()
            if told and time.monotonic() >= next_told:
                next_told += every
                told(self.stats())

    def _shut_down(self, threads: list[threading.Thread]) -> None:
        """Inspections end, then sinks, each within `stop` seconds; what is left is on disk."""
        self._over.set()
        end = time.monotonic() + self._pace.stop
        while any(thread.is_alive() for thread in threads):
            self._spool.cancel()
            if time.monotonic() >= end:
                self._late.set()
                for number in self._turns.unfinished():
                    self._inspector.cancel(number)
            for thread in threads:
                thread.join(LOOK_S)
        end = time.monotonic() + self._pace.stop
        for delivery in self._deliveries:
            delivery.finish(max(0.1, end - time.monotonic()))
        self._store.sweep()
        self._intake.close()
