"""docker/prepare.py, the init container: run as a process, as it stands in the image."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sightline_ensemble import configs

from .chart import ROOT
from .images import load

SCRIPT = ROOT / "docker" / "prepare.py"
EXPORTER = '#!/bin/sh\necho "$@" > "$CALLS"\nexit ${CODE:-0}\n'


def prepare(target: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, SCRIPT, "--repository", target, *([] if "--profile" in words else ["--profile", "real"]), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env={**os.environ, **env})


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    folder = tmp_path / "artefacts" / "sam_encoder" / "1" / "real"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "model.onnx", "a.b.plan", "a.b.json"):
        (folder / name).write_text(name)
    (folder / "model.plan").symlink_to("a.b.plan")
    (folder.parents[2] / "sam_encoder" / "1" / "other").mkdir()
    (folder.parent / "other" / "manifest.json").write_text("another profile")
    return tmp_path / "artefacts"


def files(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_ino for p in folder.rglob("*") if p.is_file()}


def test_fills_and_leaves_alone_what_is_right(tmp_path: Path, artefacts: Path) -> None:
    target = tmp_path / "models" / "h100"
    assert prepare(target, "--artefacts", str(artefacts)).returncode == 0
    first = files(target)
    assert {"inspect/config.pbtxt", "report/1/model.py", "sam_encoder/1/real/model.onnx", "sam_encoder/1/real/manifest.json"} <= set(first)
    assert not [name for name in first if name.endswith((".plan", "/a.b.json")) or "other" in name or "__pycache__" in name]
    (target / "report" / "1" / "model.py").write_text("of an older image")
    own = target / "sam_encoder" / "1" / "real" / "model.plan"
    own.write_text("built here")
    again = prepare(target, "--artefacts", str(artefacts))
    assert "prepare: 1 files new or changed" in again.stdout
    assert own.read_text() == "built here"
    assert {name for name, inode in files(target).items() if first.get(name) not in (None, inode)} == {"report/1/model.py"}


def test_plans_are_fetched_with_their_json_and_the_link(tmp_path: Path, artefacts: Path) -> None:
    target, words = tmp_path / "models", ("--artefacts", str(artefacts), "--plans", "fetch")
    assert prepare(target, *words).returncode == 0
    folder = target / "sam_encoder" / "1" / "real"
    assert (folder / "model.plan").readlink() == Path("a.b.plan") and (folder / "model.plan").read_text() == "a.b.plan"
    assert (folder / "a.b.json").exists() and "prepare: 0 files" in prepare(target, *words).stdout
    (folder / "model.plan").unlink()
    source = artefacts / "sam_encoder" / "1" / "real"
    (source / "model.plan").unlink()  # as a bucket hands it over
    assert prepare(target, *words).returncode == 0 and (folder / "model.plan").readlink() == Path("a.b.plan")
    (source / "c.plan").write_text("which of the two is used nobody says")
    (folder / "model.plan").unlink()
    assert prepare(target, *words).returncode == 0 and not (folder / "model.plan").is_symlink()


def test_another_profile_is_served_by_its_own_plans(tmp_path: Path, artefacts: Path) -> None:
    assert load("prepare").PRODUCTION == configs.PRODUCTION_PROFILE
    target, words = tmp_path / "models", ("--artefacts", str(artefacts), "--profile", "other")
    assert prepare(target, *words).returncode == 0
    assert configs.differences(target, "other") == [] != configs.differences(target)
    assert 'default_model_filename: "other/model.plan"' in (target / "sam_encoder" / "config.pbtxt").read_text()
    assert (target / "sam_encoder" / "1" / "other" / "manifest.json").exists() and (target / "report" / "1" / "model.py").exists()
    assert "prepare: 0 files new or changed" in prepare(target, *words).stdout


def test_missing_artefacts_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = prepare(tmp_path / "models", "--artefacts", str(tmp_path / "empty"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no artefacts of profile 'real', expected <model>/1/real/manifest.json" in done.stderr


@pytest.mark.parametrize("code", ["0", "3"])
def test_engines_are_built_by_the_exporter_and_its_failure_is_ours(tmp_path: Path, artefacts: Path, code: str) -> None:
    exporter = tmp_path / "bin" / "sightline-export"
    exporter.parent.mkdir()
    exporter.write_text(EXPORTER)
    exporter.chmod(0o755)
    path = os.pathsep.join((str(exporter.parent), os.environ["PATH"]))
    words = ("--artefacts", str(artefacts), "--plans", "build", "--precision", "fp16")
    done = prepare(tmp_path / "m", *words, PATH=path, CALLS=str(tmp_path / "calls"), CODE=code)
    assert done.returncode == int(code)
    said = (tmp_path / "calls").read_text().split()
    assert said[:5] == ["engine", "--repository", str(tmp_path / "m"), "--profile", "real"] and said[-2:] == ["--precision", "fp16"]


def test_one_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "models"
    target.mkdir()
    with (target / ".prepare").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = subprocess.Popen([sys.executable, SCRIPT, "--repository", target, "--profile", "real"], stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        assert other.poll() is None and not (target / "inspect").exists()
    assert other.wait(20) == 0 and (target / "inspect").exists()
