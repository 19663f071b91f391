"""Records to one sink: in order, each until the sink has it, without holding up the line or another sink."""

from __future__ import annotations

import threading
from functools import partial

from .parts import Record, Sink
from .stats import Counter
from .store import Store

PAUSE_S, PAUSE_MAX_S = 0.2, 5.0


class Delivery(threading.Thread):
    """One sink's thread. A record counts as delivered when `deliver` returned; then the cursor moves on.

    Where the other side has a record and this is not known here, it comes again with the same `history` and `seq`: its answer was
    lost or came too late, the line was stopped before the answer, or the process was killed before the cursor moved. A sink that can
    look up what it has (JSONL) leaves it out.
    """

    def __init__(self, name: str, sink: Sink, store: Store, counter: Counter) -> None:
        super().__init__(name=f"sink {name}", daemon=True)
        self._sink_name, self._sink, self._store, self._counter = name, sink, store, counter
        self._news, self._halt = threading.Event(), threading.Event()
        self._ending = False
        self._open = False
        self._pause = PAUSE_S

    def wake(self) -> None:
        self._news.set()

    def finish(self, seconds: float) -> bool:
        """Delivers what is there, for so long at most. Whether nothing is left."""
        self._ending = True
        self._news.set()
        self.join(seconds)
        self._halt.set()
        self._news.set()
        self.join(5.0)
        return not self._store.pending(self._sink_name, 1)

    def run(self) -> None:
        while not self._halt.is_set():
            self._news.clear()
            try:
                left = self._deliver_some()
            except Exception as error:  # a sink's library may raise anything; the record stays the next one
                self._counter.fault(self._sink_name, f"{type(error).__name__}: {error}")
                self._shut()
                self._halt.wait(self._pause)
                self._pause = min(self._pause * 2, PAUSE_MAX_S)
                continue
            if not left:
                if self._ending:
                    break
                self._news.wait()
        self._shut()

    def _deliver_some(self) -> bool:
        """Whether there was something."""
        records = self._store.pending(self._sink_name)
        if records and not self._open:
            self._sink.open()
            self._open = True
        for record in records:
            if self._halt.is_set():
                break
            self._deliver(record)
        return bool(records)

    def _deliver(self, record: Record) -> None:
        self._sink.deliver(record, partial(self._store.picture, record.part))
        self._store.delivered(self._sink_name, record.seq)
        self._counter.delivered(self._sink_name)
        self._pause = PAUSE_S
        self._counter.fault(self._sink_name, None)

    def _shut(self) -> None:
        if self._open:
            self._open = False
            try:
                self._sink.close()
            except Exception as error:
                self._counter.fault(self._sink_name, f"{type(error).__name__}: {error}")
