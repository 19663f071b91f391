"""A source with a clock of its own and a sink with a memory, for tests of the line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sightline.line import EndOfSource, Record, Shot, SourceError


@dataclass
class Pictures:
    """As many as there are: every third is bad, every hundredth cannot be decoded. `faults`: numbers of those that cannot be taken.

    They wait for the line, unless they are `paced`: then one may pass unseen on a busy machine.
    """

    count: int
    paced: bool = False
    faults: tuple[int, ...] = ()
    given: int = 0

    def open(self) -> None:
        pass

    def take(self) -> Shot:
        if self.given == self.count:
            raise EndOfSource
        self.given += 1
        if self.given in self.faults:
            raise SourceError("the camera is gone")
        return Shot(content(self.given), f"part-{self.given}")

    def close(self) -> None:
        pass


def content(number: int) -> bytes:
    return b"broken" if number % 100 == 0 else b"bad" if number % 3 == 0 else b"good"


def truth(number: int) -> str:
    return {b"broken": "not_inspected", b"bad": "anomaly", b"good": "normal"}[content(number)]


@dataclass
class Memory:
    """Keeps what it got. `faults`: how often a delivery fails before it works, per record."""

    faults: Iterator[bool] = field(default_factory=lambda: iter(()))
    got: list[Record] = field(default_factory=list)
    opened: int = 0

    def open(self) -> None:
        self.opened += 1

    def deliver(self, record: Record, picture: object) -> None:
        if next(self.faults, False):
            raise ConnectionError("the sink is gone")
        self.got.append(record)

    def close(self) -> None:
        pass


def check_history(got: list[Record]) -> dict[int, str]:
    """Each part once in its turn, corrections after it and once, all in order. The last word about each part."""
    assert [record.seq for record in got] == list(range(1, len(got) + 1))
    first = [record.part for record in got if not record.correction]
    assert first == list(range(1, len(first) + 1))
    outcome: dict[int, str] = {}
    for record in got:
        if record.correction:
            assert outcome[record.part] == "not_inspected" and record.outcome != "not_inspected"
        assert (record.report is None) == (record.outcome == "not_inspected") == (record.error is not None)
        outcome[record.part] = record.outcome
    return outcome
