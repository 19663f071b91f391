"""Fills a model repository for one kind of GPU: this image's models, the exported artefacts, and the engines that are missing.

Runs before the server, in the same image or the exporter's. It may run again, be killed, or run beside another one on the same
volume: a file is replaced whole or left alone, and the lock lets one after the other in. Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "model_repository"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description="Fill the model repository that sightline-serve will read.")
    add = top.add_argument
    add("--repository", type=Path, required=True, help="what is filled")
    add("--models", type=Path, default=MODELS, help="models of this image (default: %(default)s)")
    add("--artefacts", type=Path, help="a directory of <model>/1/<profile>/, written by sightline-export")
    add("--profile", required=True, help="of the artefacts, no other is taken")
    add("--engines", action="store_true", help="build the TensorRT plans that this machine's GPU lacks")
    add("--precision", help="of the plans (default: the fastest there is a graph of)")
    return top


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One at a time for each repository."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".prepare").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy(source: Path, target: Path) -> int:
    """Make `target` hold what `source` holds, and keep what else it has; returns the number of files that were replaced."""
    changed = 0
    for path in sorted(path for path in source.rglob("*") if path.is_file() and _wanted(path)):
        place = target / path.relative_to(source)
        if place.is_file() and filecmp.cmp(path, place, shallow=False):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copyfile(path, temporary)
        os.replace(temporary, place)
        changed += 1
    return changed


def _wanted(path: Path) -> bool:
    """Neither caches nor plans with their JSON: a plan is built where it will run."""
    plan = path.suffix == ".plan" or (path.suffix == ".json" and path.with_suffix(".plan").exists())
    return "__pycache__" not in path.parts and not plan


def artefacts(source: Path, target: Path, profile: str) -> int:
    """Copy one profile's artefacts; SystemExit where there are none."""
    folders = sorted(path.parent for path in source.glob(f"*/1/{profile}/manifest.json"))
    if not folders:
        raise SystemExit(f"prepare: {source}: no artefacts of profile '{profile}', expected <model>/1/{profile}/manifest.json")
    return sum(copy(folder, target / folder.relative_to(source)) for folder in folders)


def engines(repository: Path, profile: str, precision: str | None) -> None:
    line = ["sightline-export", "engine", "--repository", str(repository), "--profile", profile]
    line += ["--timing-cache", str(repository / "timing.cache"), *(["--precision", precision] if precision else [])]
    if code := subprocess.run(line).returncode:
        raise SystemExit(code)


def main() -> None:
    chosen = parser().parse_args()
    with alone(chosen.repository):
        changed = copy(chosen.models, chosen.repository)
        if chosen.artefacts:
            changed += artefacts(chosen.artefacts, chosen.repository, chosen.profile)
        print(f"prepare: {changed} files new or changed in {chosen.repository}", flush=True)
        if chosen.engines:
            engines(chosen.repository, chosen.profile, chosen.precision)


if __name__ == "__main__":
    sys.exit(main())
