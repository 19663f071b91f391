"""What people see at a terminal, what a pipe gets, and what the shell is told."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sightline
from client_fake import Call, FakeTriton, Refuse, answer, crack, report
from grpc import StatusCode
from PIL import Image
from rich.console import Console
from sightline import show, tables
from sightline.cli import main
from sightline.feedback import Feedback
from sightline.line import command
from sightline.line.stats import Stats

CELL = {"name": "cell", "description": "A [b]cell[/].", "prompt": "", "box": [1, 2, 3, 4], "images": 3, "usable": True, "calibration": {}}
SCREW = {"name": "screw", "images": 12, "augment": "flip"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()
    monkeypatch.setattr(sys, "stdout", made), monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm"), monkeypatch.setenv("COLUMNS", "140")
    return made


def words(text: str) -> list[list[str]]:
    text = re.sub(r"\x1b\[[\d;]*m", "", text)
    return [line.split() for line in text.splitlines() if line.strip() and not set(line) <= set(" ─━╺╸")]


def test_products_are_a_table_at_a_terminal_and_lines_in_a_pipe() -> None:
    shown, piped = Console(file=Terminal(), force_terminal=True, width=120, color_system=None), Console(file=io.StringIO(), width=20)
    for console in (shown, piped):
        show.products(console, {"action": "list", "products": [CELL, SCREW]})
    head, cell, screw = words(shown.file.getvalue())
    assert head == ["name", "description", "prompt", "images", "usable", "augment"]
    assert cell == ["cell", "A", "[b]cell[/].", "3", "True"] and screw == ["screw", "12", "flip"]
    assert [line.split()[0] for line in piped.file.getvalue().splitlines()] == ["cell", "screw"]
    show.products(shown, {"action": "list", "products": []})
    assert shown.file.getvalue().endswith("no product is enrolled\n")


def test_one_product_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The server's answer to `describe` and `enroll`."""
    show.products(Console(), {"action": "describe", "product": SCREW})
    assert capsys.readouterr().out == "screw  images: 12  augment: flip\n"


def test_marks_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    terminal, found = at_terminal(monkeypatch), sightline.report.parse(json.dumps(report((crack(),))))
    mark = Feedback("feedback").mark(b"x", found, "false_alarm", product="cell", operator="Ada", note="[dust]")
    assert main(["feedback", "list"]) == 0
    head, row = words(terminal.getvalue())
    assert head == ["id", "when", "mistake", "product", "operator", "note", "accepted"]
    assert row == [mark.id, mark.when, "false_alarm", "cell", "Ada", "[dust]", "False"]
    assert main(["feedback", "list", "--json"]) == 0 and terminal.getvalue().splitlines()[-1].startswith('{"id":')


def test_statistics_are_a_table_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "run", lambda *_: Stats(taken=3, normal=2, anomaly=1, latency_mean_ms=12.34, delivered={"jsonl": 3}))
    (tmp_path / "in").mkdir()
    terminal = at_terminal(monkeypatch)
    assert main(["watch", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    found = words(terminal.getvalue())
    assert ["taken", "3"] in found and ["latency", "mean", "ms", "12.3"] in found and ["delivered:", "jsonl", "3"] in found


def test_a_table_of_statistics_has_faults_in_words() -> None:
    console = Console(file=io.StringIO(), width=100)
    tables.statistics(console, Stats(faults={"mqtt": "[refused]"}).values())
    assert ["faults:", "mqtt", "[refused]"] in words(console.file.getvalue())


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    """The first time that it sees a picture with `later` in it, it is full."""
    seen: set[bytes] = set()

    def moody(call: Call) -> Iterator[dict[str, object]]:
        image = call.inputs["IMAGE"][0]
        if b"later" in image and image not in seen:
            seen.add(image)
            raise Refuse(StatusCode.UNAVAILABLE, "UNAVAILABLE: queue full")
        yield from answer(call)

    fake = FakeTriton(moody)
    yield fake
    fake.stop()


@pytest.mark.parametrize(
    ("marks", "code"),
    [([b"", b"later"], 0), ([b"", b"later bad"], 1), ([b"bad", b"broken"], 2)],
    ids=["normal", "anomaly", "not inspected"],
)
def test_watching_a_folder_once_tells_what_was_found(server: FakeTriton, marks: list[bytes], code: int, tmp_path: Path) -> None:
    """A part that was inspected later counts as what it was found to be."""
    (tmp_path / "in").mkdir()
    for number, mark in enumerate(marks):
        Image.new("L", (40, 30), number).save(tmp_path / "in" / f"{number}.png")
        with (tmp_path / "in" / f"{number}.png").open("ab") as file:
            file.write(mark)
    line = ["watch", str(tmp_path / "in"), "--once", "--takt", "0", "--out", str(tmp_path / "out"), "--url", server.url]
    assert main(line) == code


FOLDER = SimpleNamespace(once=True)


@pytest.mark.parametrize(
    ("source", "stats", "code"),
    [
        (FOLDER, Stats(normal=1, anomaly=1), 1),
        (FOLDER, Stats(anomaly=1, not_inspected=2, corrected=1), 2),
        (FOLDER, Stats(normal=1, not_inspected=2, corrected=2), 0),
        (FOLDER, Stats(normal=1, not_inspected=2, corrected=2, corrected_anomaly=1), 1),
        (SimpleNamespace(once=False), Stats(anomaly=1), 0),
        (SimpleNamespace(device=__file__), Stats(anomaly=1), 1),
        (SimpleNamespace(device="0"), Stats(anomaly=1), 0),
    ],
)
def test_a_line_whose_source_ends_tells_what_was_found(source: object, stats: Stats, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on for ever is ended by a signal, which is no fault."""
    monkeypatch.setattr(command.config, "read", lambda path: SimpleNamespace(source=source))
    monkeypatch.setattr(command, "run", lambda *_: stats)
    assert main(["line", "--config", "line.toml"]) == code
