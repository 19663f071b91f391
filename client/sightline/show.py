"""What the commands print: one block per picture for people, one JSON line for programs."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.text import Text

from . import tables
from .errors import NotInspected
from .report import Report

STYLES = {"normal": ("✓", "bold green"), "anomaly": ("✗", "bold red"), "not inspected": ("!", "bold yellow")}


def verdict_line(name: str, report: Report) -> Text:
    """Symbol, verdict, picture, score, place."""
    line = _head(report.verdict, name) + Text(f"  score {report.score_text}")
    return line + Text(f"  {', '.join(report.locations)}", style="bold") if report.locations else line


def failure(console: Console, name: str, error: NotInspected, as_json: bool) -> None:
    """Why there is no answer about a picture."""
    if as_json:
        print(error_record(name, error), flush=True)
    else:
        console.print(_head("not inspected", name) + Text(f"  {type(error).__name__}: {error.message}"), soft_wrap=True)


def _head(verdict: str, name: str) -> Text:
    symbol, style = STYLES[verdict]
    return Text(f"{symbol} {verdict.upper():<8}", style=style) + Text(f"  {name}", style="cyan")


def record(name: str, report: Report, **extra: Any) -> str:
    """The report on one line, the picture's name first."""
    named = {"request_id": report.request_id} if report.request_id else {}
    return line({"image": name, **extra, **named, **report.raw})


def error_record(name: str, error: NotInspected, **extra: Any) -> str:
    """A line with `error` and without any verdict."""
    return line({"image": name, **extra, "error": error.as_json()})


def products(console: Console, answer: Any) -> None:
    """A server's answer about products: a table for a terminal, one line each elsewhere, whatever the recipe holds."""
    told = answer.get("products", answer.get("product", answer)) if isinstance(answer, dict) else answer
    found = [product if isinstance(product, dict) else {"name": product} for product in (told if isinstance(told, list) else [told])]
    if not found:
        console.print("no product is enrolled")
    elif console.is_terminal:
        tables.rows(console, found)
    else:
        for product in found:
            console.print(_product_line(product), soft_wrap=True)


def _product_line(product: dict[str, Any]) -> Text:
    fields = dict(product)
    name = str(fields.pop("name", fields.pop("removed", "")))
    details = "  ".join(f"{key}: {value}" for key, value in fields.items() if not isinstance(value, dict | list) and value is not None)
    return Text(name, style="bold cyan") + Text(f"  {details}")


def line(values: Any) -> str:
    """JSON on one line, for programs. A file name that is no text (a lone surrogate in Python) is escaped as JSON has it."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode(errors="backslashreplace").decode()
