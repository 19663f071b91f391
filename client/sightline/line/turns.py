"""Parts in their turn: each result waits for those of the parts taken before it, then becomes a record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import takewhile

from .parts import Part, Result, Shot
from .stats import Counter
from .store import Store


class Turns:
    """Safe to share between threads. `news` is called when there are new records."""

    def __init__(self, store: Store, counter: Counter, news: Callable[[], None]) -> None:
        self._store, self._counter, self._news = store, counter, news
        self._lock, self._publishing = threading.Lock(), threading.Lock()
        self._open: dict[int, Part] = {}  # in the order of their numbers
        self._finished: dict[int, Result] = {}

    def admit(self, shot: Shot | None) -> Part:
        """Takes a shot in; from here on it ends with a record. None: a part passed unseen."""
        with self._lock:
            part = self._store.accept(shot)
            self._open[part.number] = part
        self._counter.add(taken=1)
        return part

    def end(self, parts: Iterable[Part], result: Result) -> None:
        with self._lock:
            for part in parts:
                self._open.setdefault(part.number, part)
                self._finished[part.number] = result
        with self._publishing:  # who waits here for a slow disk publishes all that has ended meanwhile, in one step
            ready = self._in_turn()
            if ready:
                self._publish(ready, False)
                with self._lock:
                    for published, _ in ready:
                        del self._open[published.number], self._finished[published.number]

    def correct(self, part: Part, result: Result) -> None:
        """A later inspection of a part that was reported as not inspected."""
        with self._publishing:
            self._publish([(part, result)], True)

    def unfinished(self) -> list[int]:
        with self._lock:
            return list(self._open)

    def _in_turn(self) -> list[tuple[Part, Result]]:
        with self._lock:
            numbers = takewhile(self._finished.__contains__, self._open)
            return [(self._open[number], self._finished[number]) for number in numbers]

    def _publish(self, results: list[tuple[Part, Result]], correction: bool) -> None:
        self._store.publish(results, correction)
        for _, result in results:
            found = str(result.outcome)
            self._counter.add(**({"corrected": 1, "corrected_anomaly": int(found == "anomaly")} if correction else {found: 1}))
        self._news()
