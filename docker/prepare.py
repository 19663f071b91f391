"""Fills a model repository for one kind of GPU: this image's models, the exported artefacts, the profile's configurations and the engines.

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
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "model_repository"
PRODUCTION = "real"  # the profile whose plans the image's own configurations load
LINK = "model.plan"  # to the plan in use


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description="Fill the model repository that sightline-serve will read.")
    add = top.add_argument
    add("--repository", type=Path, required=True, help="what is filled")
    add("--models", type=Path, default=MODELS, help="models of this image (default: %(default)s)")
    add("--artefacts", type=Path, help="a directory of <model>/1/<profile>/, written by sightline-export")
    add("--profile", required=True, help="of the artefacts, no other is taken")
    what = "TensorRT plans: build those that this machine's GPU lacks, or fetch those beside the artefacts (default: %(default)s)"
    add("--plans", choices=("none", "build", "fetch"), default="none", help=what)
    add("--precision", help="of the plans (default: the fastest there is a graph of)")
    return top


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One at a time for each repository."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".prepare").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy(source: Path, target: Path, wanted: Callable[[Path], bool]) -> int:
    """Make `target` hold what is wanted of `source`, and keep what else it has; returns the number of files that were replaced."""
    changed = 0
    for path in sorted(path for path in source.rglob("*") if path.is_file() and wanted(path)):
        place = target / path.relative_to(source)
        if place.is_file() and filecmp.cmp(path, place, shallow=False):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, _temporary(place))
        os.replace(_temporary(place), place)
        changed += 1
    return changed


def _temporary(place: Path) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}")


def models(source: Path, target: Path, profile: str) -> int:
    """The image's models, configured for the profile's plans."""
    if profile == PRODUCTION:
        return copy(source, target, lambda path: "__pycache__" not in path.parts)
    changed = copy(source, target, lambda path: "__pycache__" not in path.parts and path.suffix != ".pbtxt")
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "sightline_ensemble.configs", "--write", "--profile", profile, folder]
        if code := subprocess.run(line).returncode:
            raise SystemExit(code)
        return changed + copy(Path(folder), target, lambda path: path.suffix == ".pbtxt")


def artefacts(source: Path, target: Path, profile: str, fetch: bool) -> int:
    """Copy one profile's artefacts, with `fetch` their plans too; SystemExit where there are none."""
    folders = sorted(path.parent for path in source.glob(f"*/1/{profile}/manifest.json"))
    if not folders:
        raise SystemExit(f"prepare: {source}: no artefacts of profile '{profile}', expected <model>/1/{profile}/manifest.json")
    places = {folder: target / folder.relative_to(source) for folder in folders}
    changed = sum(copy(folder, place, lambda path: path.name != LINK and (fetch or not _plan(path))) for folder, place in places.items())
    return changed + (sum(link(folder, place) for folder, place in places.items()) if fetch else 0)


def _plan(path: Path) -> bool:
    """A plan or its JSON."""
    return path.suffix == ".plan" or (path.suffix == ".json" and path.with_suffix(".plan").exists())


def link(source: Path, target: Path) -> int:
    """Point at the plan in use as `source` does; a bucket keeps no links, there it is the only plan. Whether it fits the server says."""
    plans = [path.name for path in source.glob("*.plan") if path.name != LINK]
    chosen = os.readlink(source / LINK) if (source / LINK).is_symlink() else plans[0] if len(plans) == 1 else ""
    place = target / LINK
    if not chosen or (place.is_symlink() and os.readlink(place) == chosen):
        return 0
    os.symlink(chosen, _temporary(place))
    os.replace(_temporary(place), place)
    return 1


def engines(repository: Path, profile: str, precision: str | None) -> None:
    line = ["sightline-export", "engine", "--repository", str(repository), "--profile", profile]
    line += ["--timing-cache", str(repository / "timing.cache"), *(["--precision", precision] if precision else [])]
    if code := subprocess.run(line).returncode:
        raise SystemExit(code)


def main() -> None:
    chosen = parser().parse_args()
    with alone(chosen.repository):
        changed = models(chosen.models, chosen.repository, chosen.profile)
        if chosen.artefacts:
            changed += artefacts(chosen.artefacts, chosen.repository, chosen.profile, chosen.plans == "fetch")
        print(f"prepare: {changed} files new or changed in {chosen.repository}", flush=True)
        if chosen.plans == "build":
            engines(chosen.repository, chosen.profile, chosen.precision)


if __name__ == "__main__":
    sys.exit(main())
