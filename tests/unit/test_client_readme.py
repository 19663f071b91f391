"""The client's README says what is true: its code runs, its commands parse, its line is one, its figures were measured."""

from __future__ import annotations

import csv
import re
import shlex
import tomllib
from pathlib import Path

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
    fakes = [FakeTriton(answer) for _ in range(2)]
    monkeypatch.chdir(tmp_path)
    Image.new("L", (40, 30), 99).save("cell.png")
    with open("cell.png", "ab") as file:
        file.write(b"bad")
    here = block.replace("a:8001,b:8001", ",".join(fake.url for fake in fakes)).replace("localhost:8001", fakes[0].url)
    assert here != block
    exec(compile(here, "README.md", "exec"), {"__name__": "readme"})
    assert any(fake.calls for fake in fakes) and re.search(r"anomaly|part-4711|2 anomalous", capsys.readouterr().out)
    for fake in fakes:
        fake.stop()


def test_code_that_needs_a_plant_is_python() -> None:
    blocks = re.findall(r"```python no-run\n(.*?)```", TEXT, re.DOTALL)
    assert [compile(block, "README.md", "exec") for block in blocks]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line])
def test_commands_parse(command: str) -> None:
    parser().parse_args(shlex.split(command)[1:])


def test_the_line_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    read = config.build(tomllib.loads(block), tmp_path)
    assert read.name == "cell-3" and set(read.sinks) == {"jsonl", "mqtt"} and read.policy.hedge_after == 0.8
    kinds = {word for word in re.findall(r"\b[a-z]+\b", block) if word in {*config.SOURCES, *config.SINKS}}
    assert kinds == {*config.SOURCES, *config.SINKS}


def test_figures_of_shared_memory_are_measured() -> None:
    with (ROOT / "benchmarks" / "results" / "shared_memory.csv").open(newline="", encoding="utf-8") as file:
        measured = {(int(row["bytes"]), row["way"]): row["p50_ms"] for row in csv.DictReader(file)}
    rows = re.findall(r"^\| (\d+) MB \| ([\d.]+) ms \| ([\d.]+) ms \|$", TEXT, re.MULTILINE)
    assert len(rows) == 3
    for size, plain, shared in rows:
        assert (measured[int(size) * 10**6, "gRPC bytes"], measured[int(size) * 10**6, "shared memory"]) == (plain, shared)
