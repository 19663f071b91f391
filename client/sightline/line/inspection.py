"""One part's inspection, and the second one of parts in the spool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, Unpack

from ..calls import Options
from ..errors import InvalidInput, NotInspected, ServerFault, Timeout, UnknownProduct
from ..pictures import encode
from ..report import Report
from .parts import Part, Result
from .stats import Counter
from .store import Store
from .turns import Turns

AGAIN_S, AGAIN_MAX_S = 0.25, 5.0
LOOK_S = 0.1
POSTPONED = {kind.__name__ for kind in (Timeout, ServerFault, InvalidInput, UnknownProduct)}
REFUSED = {kind.__name__ for kind in (InvalidInput, UnknownProduct)}


class Client(Protocol):
    """What the line needs of `sightline.Client`."""

    def inspect(self, image: bytes, **options: Unpack[Options]) -> Report: ...

    def cancel(self, request_id: str) -> bool: ...


class Inspector:
    """Asks the server about a part. `inspect` never raises: whatever goes wrong, the part is not inspected.

    Pictures of normal parts are read once, here: a share that is gone later must not cost a part its verdict.
    """

    def __init__(self, client: Client, line: str, options: Mapping[str, Any], counter: Counter) -> None:
        self._client, self._line, self._counter = client, line, counter
        self._options: Options = {**options}  # type: ignore[typeddict-item]  # the configuration has checked them
        if self._options.get("reference"):
            self._options["reference"] = [encode(picture, "REFERENCE") for picture in self._options["reference"] or ()]
        self._asked = {name: str(options[name]) for name in ("product", "prompt") if options.get(name) is not None}

    def inspect(self, part: Part, timeout: float) -> Result:
        result = self._result(part, timeout)
        return replace(result, asked=self._asked, request_id=self._request_id(part.number))

    def _result(self, part: Part, timeout: float) -> Result:
        begun = time.monotonic()
        try:
            assert part.path is not None
            asked: Options = {**self._options, "timeout": timeout, "request_id": self._request_id(part.number)}
            report = self._client.inspect(part.path.read_bytes(), **asked)
            self._counter.took(time.monotonic() - begun)
            return Result("anomaly" if report.anomaly else "normal", report.raw)
        except NotInspected as error:
            return Result.failed(error, again=not _about_picture(error))
        except Exception as error:
            return Result.failed(ServerFault(f"the client failed: {type(error).__name__}: {error}", "INTERNAL"), again=True)

    def cancel(self, number: int) -> None:
        self._client.cancel(self._request_id(number))

    def _request_id(self, number: int) -> str:
        return f"{self._line}-{number}"


def _about_picture(error: NotInspected) -> bool:
    """Whether the picture itself is at fault, so that no later inspection can succeed. What else is wrong may be put right."""
    words = error.message.startswith(("IMAGE", "BOX", "PRODUCT: its box")) or "larger than max" in error.message
    return isinstance(error, InvalidInput) and words


class Reinspection:
    """Takes parts from the spool, oldest first, while no part of the line is waiting, and waits longer while the server fails."""

    def __init__(self, inspector: Inspector, timeout: float, store: Store, turns: Turns, idle: Callable[[], bool]) -> None:
        self._inspector, self._timeout, self._store, self._turns, self._idle = inspector, timeout, store, turns, idle
        self._number = 0
        self._refused: set[int] = set()

    @property
    def refused(self) -> int:
        """Parts of the spool whose request was refused when it was last made: they wait for somebody to put something right."""
        return len(self._refused)

    def run(self, stopping: threading.Event) -> None:
        pause = AGAIN_S
        while not stopping.is_set():
            part = self._store.next_spooled() if self._idle() else None
            if part is None:
                stopping.wait(LOOK_S)
            elif self._again(part):
                pause = AGAIN_S
            else:
                stopping.wait(pause)
                pause = min(pause * 2, AGAIN_MAX_S)

    def cancel(self) -> None:
        self._inspector.cancel(self._number)

    def _again(self, part: Part) -> bool:
        """Whether the part is off the spool."""
        self._number = part.number
        result = self._inspector.inspect(part, self._timeout)
        refused = result.again and result.error is not None and result.error["type"] in REFUSED
        (self._refused.add if refused else self._refused.discard)(part.number)
        if result.report:
            self._turns.correct(part, result)
        elif not result.again:
            self._store.give_up(part)
        elif result.error and result.error["type"] in POSTPONED:
            self._store.postpone(part)
        return not result.again
