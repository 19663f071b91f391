"""A dialogue about one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from . import show
from .client import Client
from .errors import NotInspected
from .pictures import encode
from .report import Complete, Piece, Report, Verdict

HISTORY_LIMIT = 32
HELP = "Ask about the picture; an empty line asks for anomalies, /new forgets the dialogue, /quit or Ctrl-D ends it."


def run(client: Client, image: str, options: dict[str, Any], console: Console) -> int:
    """Reads questions from stdin until its end. Exit code 0, or 2 if the last question had no answer."""
    picture = encode(image)
    history: list[dict[str, str]] = []
    code = 0
    console.print(HELP, style="dim", soft_wrap=True)
    while (question := _ask(console)) is not None:
        if question == "/new":
            history.clear()
            continue
        try:
            report = answer(client, picture, Path(image).name, question, history, options, console)
        except NotInspected as error:
            code = 2
            console.print(show.error_line(Path(image).name, error), soft_wrap=True)
            continue
        code = 0
        history += [{"role": "user", "content": question or report.prompt}, {"role": "assistant", "content": report.text}]
        del history[:-HISTORY_LIMIT]
    return code


def answer(
    client: Client,
    picture: bytes | str,
    name: str,
    question: str | None,
    history: list[dict[str, str]],
    options: dict[str, Any],
    console: Console,
) -> Report:
    """Prints the verdict when it is known and the sentence as it is written."""
    report: Report | None = None
    asked = {**options, "prompt": question or None, "history": history or None}
    try:
        for event in client.stream(picture, **asked):
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
