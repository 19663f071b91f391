"""The README says only what is there: commands, paths and measured figures."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sightline.cli import parser

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import readme  # noqa: E402

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split(" # ")[0].split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
LINKS = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in link]
RESULTS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) \| `([^`]+)` \| \[[^]]+\]\(([^)]+\.csv)\) \|$", TEXT, re.MULTILINE)


def test_a_newcomer_reads_it_in_a_minute() -> None:
    assert len(TEXT.splitlines()) < 150


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", TEXT, re.MULTILINE))))
def test_make_targets_exist(target: str) -> None:
    assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("command", [line for line in COMMANDS if "sightline " in line])
def test_client_commands_parse(command: str) -> None:
    parser().parse_args(shlex.split(command)[1:])


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_python_is_python(block: str) -> None:
    compile(block, "README.md", "exec")


@pytest.mark.parametrize("link", LINKS)
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_named_server_commands_are_installed() -> None:
    scripts = (ROOT / "pyproject.toml").read_text()
    assert all(f"{name} =" in scripts for name in set(re.findall(r"\bsightline-[a-z]+\b", TEXT)))


def test_there_are_results() -> None:
    assert len(RESULTS) >= 5


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.path.name)
def test_tables_are_the_csvs(page: readme.Page) -> None:
    assert page.shown() == page.table()


@pytest.mark.parametrize(("name", "value", "_bar", "command", "source"), RESULTS)
def test_results_are_measured(name: str, value: str, _bar: str, command: str, source: str) -> None:
    with (ROOT / source).open(newline="", encoding="utf-8") as file:
        measured = {row["measure"]: f"{row['value']} {row['unit']}".strip() for row in csv.DictReader(file)}
    assert measured[name.removeprefix("comparison: ")] == value
    assert command.startswith("make ") or (ROOT / command.split()[-1]).exists()


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "demo.png").stat().st_size < 400_000
