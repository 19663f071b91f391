"""The line's beginning: shots of the source become parts, in the takt, and so does what passed without a picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import InvalidInput
from .parts import EndOfSource, Part, Result, Shot, Source, SourceError
from .stats import Counter
from .turns import Turns

LOOK_S = 0.05
REOPEN_S = 1.0


class Intake:
    """Asks the source and hands each part to `enter`. Whatever the source raises, the line goes on and opens it again.

    Parts do not wait for a camera: with `misses`, each takt that passed while the line was busy taking the last picture is a part
    that was not inspected. Without, the source is held, and such takts are only counted.
    """

    def __init__(self, source: Source, takt: float, misses: bool, turns: Turns, counter: Counter, enter: Callable[[Part], None]) -> None:
        self._source, self._takt, self._misses = source, takt, misses
        self._turns, self._counter, self._enter = turns, counter, enter
        self._is_open = False

    def run(self, stopping: threading.Event) -> None:
        """Until the source ends or it is told to stop."""
        with suppress(Exception):  # the loop tries again, and reports it
            self._open()
        due = time.monotonic()  # the takt begins when the source is there: a camera takes a while to open
        while not stopping.wait(max(0.0, due - time.monotonic())):
            begun = time.monotonic()
            try:
                shot = self._shot()
            except EndOfSource:
                return
            except SourceError as error:
                self._fail(error)
                due = self._next(due) if self._source.paced else begun + max(self._takt, REOPEN_S)
                continue
            if shot:
                self._enter(self._turns.admit(shot))
                due = self._next(due) if self._source.paced else begun + self._takt
            else:
                due = time.monotonic() + max(LOOK_S, 4 * (time.monotonic() - begun))  # a large folder takes a while to look through

    def close(self) -> None:
        """A source that cannot even be closed stops nothing."""
        self._is_open = False
        try:
            self._source.close()
        except Exception as error:
            self._counter.fault("source", f"{type(error).__name__}: {error}")

    def _shot(self) -> Shot | None:
        """What the source gives. Its library may raise anything: then there was no picture this time."""
        try:
            self._open()
            shot = self._source.take()
        except (EndOfSource, SourceError):
            raise
        except Exception as error:
            raise SourceError(f"{type(error).__name__}: {error}") from error
        self._counter.fault("source", None)
        return shot

    def _open(self) -> None:
        if not self._is_open:
            self._source.open()
            self._is_open = True

    def _fail(self, error: SourceError) -> None:
        if self._is_open:
            self.close()
        self._counter.fault("source", str(error))
        if self._source.paced:
            self._miss(1, str(error))

    def _next(self, due: float) -> float:
        """The takt after this one. Those that have passed meanwhile are not made up for."""
        late = int((time.monotonic() - due) / self._takt) if self._takt else 0
        self._counter.add(late=late)
        if self._misses and late:
            self._miss(late, "the line was busy with the part before")
        return due + (late + 1) * self._takt

    def _miss(self, count: int, reason: str) -> None:
        """Where the takt asked for a picture, a part has passed without one."""
        error = InvalidInput(f"IMAGE: no picture was taken: {reason}", "INVALID_ARGUMENT")
        parts = [self._turns.admit(None) for _ in range(count)]
        self._counter.add(unseen=count)
        self._turns.end(parts, Result.failed(error, again=False))
