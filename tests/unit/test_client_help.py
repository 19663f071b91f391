"""Each command's help shows how it is used, and what it shows is true."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator

import pytest
from sightline.cli import parser


def commands(top: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All of them, those inside others too."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, made in action.choices.items():
                yield f"{name} {word}".strip(), made
                yield from commands(made, f"{name} {word}".strip())


ALL = dict(commands(parser()))


def examples(text: str) -> list[str]:
    return re.findall(r"^(?:examples?:)?\s*(sightline .*)$", text, re.MULTILINE)


def test_there_are_commands() -> None:
    known = {"inspect", "batch", "chat", "enroll", "products", "segment", "feedback", "line", "watch"}
    assert known <= set(ALL) and {"feedback mark", "feedback list", "feedback accept"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_has_an_example_that_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([*name.split(), "--help"])
    shown = examples(capsys.readouterr().out)
    assert any(line.startswith(f"sightline {name} ") or line == f"sightline {name}" for line in shown)
    for line in shown:
        parser().parse_args(shlex.split(line.split(" < ")[0])[1:])


@pytest.mark.parametrize("name", [name for name in ALL if name != "feedback"])
def test_every_command_speaks_json(name: str) -> None:
    assert "--json" in ALL[name].format_usage() or name == "web"  # a page is for people
