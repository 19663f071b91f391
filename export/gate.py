"""The gate at work: the original's answers once, then every artefact's beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from . import parity
from .checkpoint import Sam
from .parity import Answer, Row, Summary
from .pictures import Picture, extreme_picture, real_pictures
from .rows import write_csv

FIRST_LOOK, FIRST_SHARE = 2, 0.8  # a choice that has used up this share of its error after two pictures is not worth twenty

Tick = Callable[[str], None]
"""Told what is being done."""


class Order(Protocol):
    """What the gate reads of an export's order."""

    model: str
    profile: str
    precisions: tuple[str, ...]
    images: Path | None

    @property
    def report(self) -> Path: ...

    def count(self, precision: str) -> int: ...


@dataclass
class Gate:
    """The originals' answers, computed once, and the rows of everything compared with them."""

    sam: Sam
    samples: list[Picture]
    extreme: Picture
    expected: list[Answer] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def side(self) -> int:
        return self.sam.size.image_size

    def ask_original(self, tick: Tick) -> None:
        encode, decode = parity.original(self.sam)
        for i, picture in enumerate(self.samples):
            tick(f"original in torch: {picture.name}, {i + 1} of {len(self.samples)}")
            self.expected.append(parity.answer(picture, encode, decode, self.side))

    def judge(self, precision: str, kept: str, count: int, encode: parity.Encode, decode: parity.Decode, tick: Tick) -> bool:
        """Compare on `count` pictures; gives up early where two of them are hopeless. True: the bar is reached."""
        bar, rows = parity.BARS[precision], []
        for picture, expected in list(zip(self.samples, self.expected, strict=True))[:count]:
            tick(f"{precision} ({kept}): {picture.name}, {len(rows) + 1} of {count}")
            rows.append(parity.compare(picture, expected, parity.answer(picture, encode, decode, self.side), precision, kept))
            if len(rows) == FIRST_LOOK and not Summary.of(rows).reaches(bar.share(FIRST_SHARE)):
                break
        self.rows += rows
        if len(rows) < count or not Summary.of(rows).reaches(bar):
            return False
        tick(f"{precision} ({kept}): extreme contrast")
        return parity.answer(self.extreme, encode, decode, self.side).finite

    def figures(self) -> str:
        """What the last comparison came to, in a line."""
        last = self.rows[-1]
        s, bar = Summary.of([r for r in self.rows if (r.precision, r.kept) == (last.precision, last.kept)]), parity.BARS[last.precision]
        if not s.finite or s.reaches(bar):  # the extremes have no rows
            return "NaN or infinity in its answers; expected finite ones, at extreme contrast too"
        return (
            f"error {s.max_error:.1e} of the range, mask IoU mean {s.mean_iou:.4f}, smallest {s.min_iou:.4f}; "
            f"expected at most {bar.max_error:.1e}, at least {bar.mean_iou} and {bar.min_iou}"
        )


def wide_console() -> Console:
    """The terminal, or 160 columns where the output goes to a file: a table's cells must not be cut there."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


@contextmanager
def open_gate(sam: Sam, order: Order, console: Console) -> Iterator[tuple[Gate, Tick]]:
    """A gate with its pictures, and a progress line; whatever happens, the CSV and the table say what was measured."""
    side, most = sam.size.image_size, max(order.count(p) for p in order.precisions)
    gate = Gate(sam, real_pictures(most, side, order.images), extreme_picture(side))
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        try:
            yield gate, lambda text: progress.update(task, description=text)
        finally:
            if gate.rows:
                write_csv(order.report, gate.rows)
                console.print(parity.table(f"{order.model}, profile {order.profile}", gate.rows))
