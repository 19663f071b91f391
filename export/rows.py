"""Dataclasses as lines of a CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any


def write_csv(path: Path, rows: Sequence[Any]) -> None:
    """A line for each of one or more rows of one dataclass, under its fields' names; floats with seven digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(rows[0])])
        writer.writerows([f"{value:.7g}" if isinstance(value, float) else value for value in astuple(row)] for row in rows)
