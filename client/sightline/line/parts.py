"""What travels along the line: a shot of the source, a part with its number, and the record that every sink gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import NotInspected

SCHEMA = "sightline-line/1"
Outcome = Literal["normal", "anomaly", "not_inspected"]
CODES: dict[str, int] = {"not_inspected": 0, "normal": 1, "anomaly": 2}
"""For machines that count: a register that nobody has written yet is no good part."""


class EndOfSource(Exception):
    """There will be no more pictures."""


class SourceError(Exception):
    """No picture this time. Where the takt asked for one, a part has passed unseen: it is reported as not inspected."""


@dataclass(frozen=True)
class Shot:
    """A picture as the source gives it. `key`: what tells it from every other one, so that a restart does not take it again.

    `removed`: the source removes its own copy as soon as the line has taken the picture in.
    """

    picture: bytes
    name: str
    key: str | None = None
    removed: bool = False


@dataclass(frozen=True)
class Part:
    """A shot that was taken in; from here on it ends as normal, anomaly or not inspected. `path`: its picture on disk, if it has one."""

    number: int
    name: str
    taken: float
    path: Path | None


@dataclass(frozen=True)
class Result:
    """What became of an inspection: the server's report, or why there is none. `again`: a later inspection may succeed.

    `asked`: product and prompt, where they were given; `request_id`: the request's name on the server.
    """

    outcome: Outcome
    report: dict[str, Any] | None = None
    error: dict[str, str] | None = None
    again: bool = False
    asked: dict[str, str] = field(default_factory=dict)
    request_id: str = ""

    @staticmethod
    def failed(error: NotInspected, again: bool) -> Result:
        return Result("not_inspected", None, error.as_json(), again)


@dataclass(frozen=True)
class Record:
    """One line of the line's history. `seq` counts records and is the same in every sink; `part` counts parts. `history` is the name of
    what they count in: it is another one where the line's state is new and both begin at 1 again.

    Each part has one record in its turn. Where that says `not_inspected` and the picture was inspected later, a second record with
    `correction` true follows in its own place.
    """

    seq: int
    line: str
    part: int
    name: str
    taken: float
    outcome: Outcome
    correction: bool
    report: dict[str, Any] | None
    error: dict[str, str] | None
    history: str = ""
    asked: dict[str, str] = field(default_factory=dict)
    request_id: str = ""

    @property
    def code(self) -> int:
        return CODES[self.outcome]

    @property
    def score(self) -> float | None:
        return float(self.report["score"]) if self.report else None

    def values(self, full: bool = True) -> dict[str, Any]:
        """As JSON. `full`: with the masks' run lengths."""
        report = self.report if full or self.report is None else _slim(self.report)
        taken = datetime.fromtimestamp(self.taken, UTC).isoformat(timespec="milliseconds")
        head = {"schema": SCHEMA, "line": self.line, "history": self.history, "seq": self.seq, "part": self.part, "name": self.name}
        asked = {"taken": taken, "asked": self.asked, "request_id": self.request_id}
        return {**head, **asked, "outcome": self.outcome, "correction": self.correction, "report": report, "error": self.error}

    def json(self, full: bool = True) -> str:
        return json.dumps(self.values(full), ensure_ascii=False, separators=(",", ":"))


def _slim(report: dict[str, Any]) -> dict[str, Any]:
    defects = [{key: value for key, value in defect.items() if key != "rle"} for defect in report["defects"]]
    return {**{key: value for key, value in report.items() if key not in ("part", "timings_ms")}, "defects": defects}


class Source(Protocol):
    """Where pictures come from. `paced`: it gives one whenever asked, so the takt asks; otherwise pictures come by themselves."""

    paced: bool

    def open(self) -> None:
        """Connects. SourceError where that fails; it is tried again."""

    def take(self) -> Shot | None:
        """The next picture; None where there is none yet. Raises SourceError or EndOfSource."""

    def close(self) -> None: ...


Load = Callable[[], bytes | None]


class Sink(Protocol):
    """Where records go. Whatever `open` or `deliver` raise is tried again later, the same record first."""

    def open(self) -> None: ...

    def deliver(self, record: Record, picture: Load) -> None:
        """Hands a record over; returns when the other side has it. `picture` loads the part's picture, None if it is gone."""

    def close(self) -> None: ...
