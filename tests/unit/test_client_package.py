"""The package itself: typed strictly, quick to import, light."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "client"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def mypy(cache: Path, *names: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(cache), *names]
    return subprocess.run(line, cwd=CLIENT, capture_output=True, text=True)


def test_mypy_strict_finds_nothing(cache: Path) -> None:
    found = mypy(cache, "sightline")
    assert found.returncode == 0, found.stdout


def test_a_callers_mistakes_are_seen_by_mypy(cache: Path, tmp_path: Path) -> None:
    """The types say something: each wrong line is an error, each right one is not."""
    code = """from sightline import Client, Report
report: Report = Client("h:1", attempts=2, when_full="refuse").inspect("x.png", prompt="Where?", timeout=3)
area: int = report.defects[0].area
Client("h:1", atempts=2)
Client().inspect("x.png", promt="Where?")
Client().inspect(7)
report.verdict = "normal"
"""
    (tmp_path / "caller.py").write_text(code)
    found = mypy(cache, str(tmp_path / "caller.py"))
    assert [int(text.split(":")[1]) for text in found.stdout.splitlines() if ": error:" in text] == [4, 5, 6, 7], found.stdout


def test_every_folder_is_installed() -> None:
    """setuptools takes only the packages that are named."""
    named = tomllib.loads((CLIENT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (CLIENT / "sightline").rglob("*.py")}
    assert sorted(named) == sorted(".".join(folder.relative_to(CLIENT).parts) for folder in folders)


def test_it_is_imported_in_half_a_second_and_without_torch() -> None:
    """Processor time, the smallest of three: other work on the machine does not count."""
    heavy = "('torch', 'transformers', 'cv2', 'rich', 'scipy')"
    code = f"import os, sys, sightline; assert not any(name in sys.modules for name in {heavy}); print(sum(os.times()[:2]))"
    seconds = [float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.5
