"""Pieces of HTML: the verdict's banner and what is said beside it. Everything that comes from outside is escaped."""

from __future__ import annotations

from html import escape
from typing import Any

from ..errors import NotInspected
from ..feedback import Effect
from ..report import Report

EMPTY = '<div class="banner idle" role="status">Drop a picture of a part, then press <b>Inspect</b>.</div>'
HINT = "Pull a box over the picture, or click two of its corners: then only the part inside is inspected."
CORNER = "First corner set. Click the opposite corner."


def verdict(report: Report, name: str, text: str, writing: bool = False) -> str:
    """Word and symbol, not only a colour; below them the sentence, as far as it is written."""
    kind, symbol = ("anomaly", "✗") if report.anomaly else ("normal", "✓")
    places = f" · {escape(', '.join(report.locations))}" if report.locations else ""
    times = "" if writing else f" · {report.timings_ms.get('total', 0.0):.0f} ms"
    cursor = '<span class="cursor">▍</span>' if writing else ""
    return _banner(kind, symbol, kind.upper(), f"score {report.score_text}{places}", f"{escape(name)}{times}", escape(text) + cursor)


def busy(name: str) -> str:
    return _banner("busy", "…", "INSPECTING", "", escape(name), "")


def not_inspected(name: str, error: NotInspected) -> str:
    told = f"{type(error).__name__}: {error.message}"
    return _banner("failed", "!", "NOT INSPECTED", "no verdict", escape(name), escape(told))


def _banner(kind: str, symbol: str, word: str, score: str, about: str, text: str) -> str:
    head = f'<span class="symbol" aria-hidden="true">{symbol}</span><span class="word">{word}</span>'
    head += f'<span class="score">{score}</span><span class="about">{about}</span>'
    sentence = f'<p class="sentence">{text}</p>' if text else ""
    return f'<div class="banner {kind}" role="status" aria-live="polite"><div class="head">{head}</div>{sentence}</div>'


def server(url: str, ready: bool) -> str:
    state = '<span class="up">● ready</span>' if ready else '<span class="down">○ no answer</span>'
    return f'<div class="server">{state} {escape(url)}</div>'


def note(text: str, kind: str = "") -> str:
    return f'<div class="note {kind}" role="status">{escape(text)}</div>' if text else ""


def failure(error: NotInspected) -> str:
    return note(f"{type(error).__name__}: {error.message}", "bad")


def effect(learnt: Effect, product: str) -> str:
    """Old and new answer about the same picture, side by side."""
    before, after = (f'<span class="chip {r.verdict}">{_symbol(r)} {r.verdict.upper()} {r.score_text}</span>' for r in _both(learnt))
    told = (
        "The product has learnt it."
        if learnt.cured or not learnt.before.anomaly
        else "One picture more was not enough: it is still called an anomaly."
    )
    count = f"{escape(product)} now compares with {learnt.images} normal pictures. {told}"
    return f'<div class="note effect" role="status">{before} <span aria-label="becomes">→</span> {after}<br>{count}</div>'


def _both(learnt: Effect) -> tuple[Report, Report]:
    return learnt.before, learnt.after


def _symbol(report: Report) -> str:
    return "✗" if report.anomaly else "✓"


COLUMNS = ("name", "images", "description", "created", "usable")


def products(found: list[dict[str, Any]]) -> str:
    """A table of what is enrolled."""
    if not found:
        return note("No product is enrolled yet.")
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    rows = "".join(f"<tr>{''.join(f'<td>{_cell(product.get(column))}</td>' for column in COLUMNS)}</tr>" for product in found)
    return f'<div class="scroll"><table class="products"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: Any) -> str:
    return {True: "yes", False: "no", None: ""}[value] if value is None or isinstance(value, bool) else escape(str(value))
