"""The client's README and the pages behind it say what is true: code runs, commands parse, the line is one, figures were measured."""

from __future__ import annotations

import csv
import re
import shlex
import tomllib
from pathlib import Path

import pages
import pytest
from client_fake import FakeTriton, answer
from PIL import Image
from sightline.cli import parser
from sightline.line import config

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "client" / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_code_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeTriton(answer)
    monkeypatch.chdir(tmp_path)
    Image.new("L", (40, 30), 99).save("cell.png")
    with open("cell.png", "ab") as file:
        file.write(b"bad")
    here = block.replace("localhost:8001", fake.url)
    assert here != block
    exec(compile(here, "README.md", "exec"), {"__name__": "readme"})
    assert fake.calls and "anomaly" in capsys.readouterr().out
    fake.stop()


@pytest.mark.parametrize("command", [line for line in COMMANDS if line])
def test_commands_parse(command: str) -> None:
    parser().parse_args(shlex.split(command)[1:])


def test_the_plant_is_one(tmp_path: Path) -> None:
    """docs/line.md: the file is read as it stands, and every kind of source and sink is named in it."""
    (block,) = (block.text for block in pages.blocks("line.md") if block.text.startswith("# plant.toml"))
    read = config.build(tomllib.loads(block), tmp_path)
    assert read.name == "cell-3" and set(read.sinks) == {"jsonl", "mqtt"} and read.policy.hedge_after == 0.8
    kinds = {word for word in re.findall(r"\b[a-z]+\b", block) if word in {*config.SOURCES, *config.SINKS}}
    assert kinds == {*config.SOURCES, *config.SINKS}


def test_figures_of_shared_memory_are_measured() -> None:
    with (ROOT / "benchmarks" / "results" / "shared_memory.csv").open(newline="", encoding="utf-8") as file:
        measured = {(int(row["bytes"]), row["way"]): row for row in csv.DictReader(file)}
    page = (pages.DOCS / "connections.md").read_text()
    rows = re.findall(r"^\| (\d+) MB \| ([\d.]+) ms \| ([\d.]+) ms \| (\d+) /s \| (\d+) /s \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for size, *told in rows:
        ways = [measured[int(size) * 10**6, way] for way in ("gRPC bytes", "shared memory")]
        assert told == [row[column] for column in ("p50_ms", "per_s") for row in ways]


def test_the_page_is_started_as_its_document_says() -> None:
    """docs/web.md: the extra exists, and the command parses. tests/web starts it."""
    extras = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (block,) = (block.text for block in pages.blocks("web.md") if block.language == "bash")
    install, command = (shlex.split(line, comments=True) for line in block.splitlines())
    assert install == ["pip", "install", "./client[web]"] and "web" in extras
    made = parser().parse_args(command[1:])
    assert command[0] == "sightline" and made.samples == Path("build/demo/cells")


@pytest.mark.parametrize("page", ["quickstart", "client", "connections", "products", "line", "own_sources"])
def test_pages_are_short_and_their_links_lead_somewhere(page: str) -> None:
    text = (pages.DOCS / f"{page}.md").read_text()
    assert len(text.splitlines()) <= 90
    assert all((pages.DOCS / link).exists() for link in re.findall(r"\]\(([^)\s#]+)\)", text))


def test_links_lead_somewhere() -> None:
    assert all((ROOT / "client" / link).exists() for link in re.findall(r"\]\(([^)\s]+)\)", TEXT))
