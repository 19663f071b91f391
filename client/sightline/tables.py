"""Tables, for people at a terminal. What is read by something else gets a line each from `show`, or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def rows(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """One row each, a column for each key that any of them has; lists and nested values are for `--json`."""
    shown = [{key: value for key, value in row.items() if value is not None and not isinstance(value, dict | list)} for row in found]
    columns = list(dict.fromkeys(key for row in shown for key in row))
    _print(console, columns, ([row.get(key, "") for key in columns] for row in shown))


def statistics(console: Console, values: Mapping[str, Any]) -> None:
    """A row for each number; what has parts of its own has a row for each of them."""
    told: list[tuple[str, Any]] = []
    for key, value in values.items():
        told += [(f"{key}: {part}", of) for part, of in value.items()] if isinstance(value, Mapping) else [(key, value)]
    _print(console, ("", ""), [(key.replace("_", " "), f"{value:.1f}" if isinstance(value, float) else value) for key, value in told])


def _print(console: Console, columns: Sequence[str], cells: Iterable[Iterable[Any]]) -> None:
    table = Table(box=SIMPLE_HEAD, show_header=any(columns), pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, overflow="fold")  # the name in one piece, to be copied
    for row in cells:
        table.add_row(*(Text(str(cell)) for cell in row))  # text from outside is no markup
    console.print(table)
