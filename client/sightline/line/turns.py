"""Parts in their turn: each result waits for those of the parts taken before it, then becomes a record."""

from __future__ import annotations

import threading
from collections.abc import Callable

from .parts import Part, Result, Shot
from .stats import Counter
from .store import Store


class Turns:
    """Safe to share between threads. `news` is called when there are new records."""

    def __init__(self, store: Store, counter: Counter, news: Callable[[], None]) -> None:
        self._store, self._counter, self._news = store, counter, news
        self._lock = threading.Lock()
        self._open: dict[int, Part] = {}  # in the order of their numbers
        self._finished: dict[int, Result] = {}

    def admit(self, shot: Shot | None) -> Part:
        """Takes a shot in; from here on it ends with a record. None: a part passed unseen."""
        with self._lock:
            part = self._store.accept(shot)
            self._open[part.number] = part
        self._counter.add(taken=1)
        return part

    def end(self, part: Part, result: Result) -> None:
        with self._lock:
            self._open.setdefault(part.number, part)
            self._finished[part.number] = result
            while self._open and (first := next(iter(self._open))) in self._finished:
                self._publish(self._open[first], self._finished[first], False)
                del self._open[first], self._finished[first]

    def correct(self, part: Part, result: Result) -> None:
        """A later inspection of a part that was reported as not inspected."""
        with self._lock:
            self._publish(part, result, True)

    def unfinished(self) -> list[int]:
        with self._lock:
            return list(self._open)

    def _publish(self, part: Part, result: Result, correction: bool) -> None:
        self._store.publish(part, result, correction)
        self._counter.add(**{"corrected" if correction else str(result.outcome): 1})
        self._news()
