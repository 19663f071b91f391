"""The package itself: typed strictly, quick to import, light."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import tomllib
import venv
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


@pytest.mark.sizes
def test_it_is_installed_in_a_minute_and_is_light(tmp_path: Path) -> None:
    """Into an empty environment, with everything from the registry."""
    source, home = tmp_path / "client", tmp_path / "venv"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    venv.create(home, with_pip=True)
    python, before = home / "bin" / "python", weight(home)
    begin = time.monotonic()
    subprocess.run([python, "-m", "pip", "install", "--no-cache-dir", source], check=True, capture_output=True)
    seconds, megabytes = time.monotonic() - begin, (weight(home) - before) / 1e6
    assert seconds < 60 and megabytes < 150
    code = "import importlib.util, sightline, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path)
    subprocess.run([home / "bin" / "sightline", "--version"], check=True, capture_output=True)
    subprocess.run([python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("sightline-*.whl")
    assert wheel.stat().st_size < 1e6


def weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
