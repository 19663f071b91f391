"""What a batch found, for people: one row a picture, and the CSV of them."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .batch import Picture
from .errors import ServerFault
from .report import Report, parse

COLUMNS = ("name", "verdict", "score", "locations", "text", "error")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute a cell that begins so


@dataclass(frozen=True)
class Row:
    """One picture: its report, or why there is none."""

    path: Path
    report: Report | None
    error: str = ""

    @property
    def verdict(self) -> str:
        return self.report.verdict if self.report else "not_inspected"


def rows(out: Path, pictures: Iterable[Picture]) -> list[Row]:
    """One for each picture, in their order, from what `batch.run` has written."""
    with out.open(encoding="utf-8", newline="\n") as lines:
        said = {entry["image"]: entry for entry in map(json.loads, lines)}
    return [_row(picture.path, said.get(str(picture.path), {})) for picture in pictures]


def _row(path: Path, entry: dict[str, object]) -> Row:
    error = entry.get("error")
    if isinstance(error, dict):
        return Row(path, None, f"{error['type']}: {error['message']}")
    try:
        return Row(path, parse(json.dumps(entry)))
    except ServerFault as fault:  # the file was edited
        return Row(path, None, fault.message)


def write_csv(path: Path, found: Iterable[Row]) -> None:
    """For spreadsheets; programs read the JSONL, which is not altered for a spreadsheet's sake."""
    with replaced(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for row in found:
            report = row.report
            told = (f"{report.score:.4f}", "; ".join(report.locations), _cell(report.text)) if report else ("", "", "")
            table.writerow((_cell(str(row.path)), row.verdict, *told, _cell(row.error)))


def _cell(text: str) -> str:
    return "'" + text if text.startswith(FORMULA) else text


@contextmanager
def replaced(path: Path) -> Iterator[TextIO]:
    """A file that is there as a whole or as it was. Names that are no text (lone surrogates) are escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        yield file
    os.replace(draft, path)
