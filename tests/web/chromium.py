"""A headless Chromium for the page's tests: `python tests/web/chromium.py` fetches it where there is none, and prints its path.

`make test-web` does so before it tests; no test fetches anything.

$CHROMIUM or one that the machine has; else Debian's own package with all that it needs and two fonts, from the machine's own Debian
source. Nothing is installed: all lies in build/chromium.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "chromium"
PACKAGES = ("chromium-headless-shell", "fonts-liberation", "fonts-dejavu-core")
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Taken as there: the machine's own C library, which Debian's release has at the version it builds for, and scripts that no test runs.
PRESENT = ("libc6", "xdg-utils", "x11-utils")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{root}/usr/share/fonts</dir><cachedir>{root}/fontcache</cachedir>
<match target="pattern"><edit name="family" mode="append_last"><string>Liberation Sans</string></edit></match>
</fontconfig>
"""


class FetchError(RuntimeError):
    """There is no Chromium to be had here; the text says why, and what to do."""


def chromium(folder: Path = FOLDER) -> Path | None:
    """The path of a Chromium that runs, None where there is none."""
    if given := os.environ.get("CHROMIUM"):
        return Path(given)
    fetched = folder / "run"
    return next((Path(found) for name in NAMES if (found := shutil.which(name))), fetched if fetched.exists() else None)


def fetch(folder: Path) -> None:
    """All in a draft that gets its name when it is whole."""
    folder.parent.mkdir(exist_ok=True)
    if (platform.system(), platform.machine()) != ("Linux", "x86_64") or not KEYRING.exists():
        raise FetchError("this is no Debian on x86-64: install Chromium and name it in $CHROMIUM")
    with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
        root, made = Path(draft) / "root", Path(draft) / "made"
        for archive in _download(Path(draft) / "apt"):
            _run("dpkg-deb", "-x", archive, root)
        made.mkdir()
        root.rename(made / "root")
        there = folder / "root"
        (made / "fonts.conf").write_text(FONTS.format(root=there))
        libraries = ":".join(f"{there}/{place}" for place in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
        wrapper = made / "run"
        wrapper.write_text(
            f'#!/bin/sh\nexport LD_LIBRARY_PATH="{libraries}:{there}/usr/lib/x86_64-linux-gnu/pulseaudio"\n'
            f'export FONTCONFIG_FILE="{folder}/fonts.conf"\nexec "{there}/usr/lib/chromium/chromium-headless-shell" "$@"\n'
        )
        wrapper.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _download(apt: Path) -> list[Path]:
    """The packages, by an apt of their own: the machine's lists and packages are neither touched nor looked at."""
    for name in ("lists/partial", "cache/archives/partial", "state"):
        (apt / name).mkdir(parents=True)
    entry = "Package: {}\nStatus: install ok installed\nMaintainer: -\nArchitecture: amd64\nVersion: 999\nDescription: -\n\n"
    (apt / "status").write_text("".join(map(entry.format, PRESENT)))
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {_release()} main\n")
    given = {
        "Dir::Etc::sourcelist": "sources.list", "Dir::State": "state", "Dir::State::lists": "lists", "Dir::State::status": "status",
        "Dir::Cache": "cache",
    }  # fmt: skip
    options = [f"-o={key}={apt / place}" for key, place in given.items()] + ["-o=Dir::Etc::sourceparts=-", "-o=APT::Sandbox::User=root"]
    _run("apt-get", *options, "-qq", "update")
    _run("apt-get", *options, "-qq", "-y", "--no-install-recommends", "--download-only", "install", *PACKAGES)
    return sorted((apt / "cache" / "archives").glob("*.deb"))


def _mirror() -> str:
    """The address of this machine's own Debian source."""
    for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        text = path.read_text() if path.is_file() and path.suffix in (".list", ".sources") else ""
        if found := re.search(r"^(?:URIs:|deb(?: \[.*\])?) +(\S+/debian)/?(?:\s|$)", text, re.MULTILINE):
            return found[1]
    raise FetchError("this machine names no Debian source: install Chromium and name it in $CHROMIUM")


def _release() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _run(*line: str | Path) -> None:
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise FetchError(f"`{' '.join(map(str, line[:2]))} ...` failed: {' '.join(last)}")


if __name__ == "__main__":
    try:
        chromium() or fetch(FOLDER)
        print(chromium())
    except FetchError as error:
        sys.exit(f"chromium: {error}")
