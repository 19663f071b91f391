"""A dialogue about one picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from . import show
from .client import Client
from .errors import NotInspected
from .report import Complete, Event, Piece, Report, Verdict
from .session import Chat

HELP = "Ask about the picture; an empty line asks for anomalies, /new forgets the dialogue, /quit or Ctrl-D ends it."


def run(client: Client, image: str, options: dict[str, Any], as_json: bool = False) -> int:
    """Reads questions from stdin until its end. Exit code 0, or 2 if the last question had no answer."""
    dialogue, console = client.chat(image, **options), Console(stderr=as_json)
    code = 0
    console.print(HELP, style="dim", soft_wrap=True)
    while (question := _ask(console)) is not None:
        if question == "/new":
            dialogue.forget()
            continue
        try:
            _answer(dialogue, question, image, console, as_json)
            code = 0
        except NotInspected as error:
            code = 2
            show.failure(console, image, error, as_json)
    return code


def _answer(dialogue: Chat, question: str, image: str, console: Console, as_json: bool) -> None:
    if as_json:
        print(show.record(image, dialogue.ask(question or None), question=question), flush=True)
    else:
        written(dialogue.stream(question or None), Path(image).name, console)


def written(events: Iterable[Event], name: str, console: Console) -> Report:
    """Prints the verdict when it is known and the sentence as it is written."""
    report: Report | None = None
    try:
        for event in events:
            if isinstance(event, Verdict):
                console.print(show.verdict_line(name, event.report), soft_wrap=True)
                console.print(Text("  " + event.text), end="", soft_wrap=True)
            elif isinstance(event, Piece):
                console.print(Text(event.text), end="", soft_wrap=True)
            elif isinstance(event, Complete):
                report = event.report
    finally:
        console.print()
    assert report is not None  # the client raises where a stream ends without its report
    return report


def _ask(console: Console) -> str | None:
    try:
        question = console.input("[bold]> [/]").strip()
    except EOFError:
        return None
    return None if question in ("/quit", "/exit") else question
