"""The blocks of a page of the documentation, and how they are run: Python by exec, each command by a shell of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
ANOMALY = 1  # exit code of `sightline` where a part is not normal


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in found]


def run(block: Block, folder: Path, url: str) -> None:
    """In `folder`, which is the working directory; a TOML block becomes the file that its first line names."""
    two = f"{url},localhost:{url.rpartition(':')[2]}"
    text = block.text.replace("a:8001,b:8001", two).replace("localhost:8001", url)
    if block.language == "python":
        exec(compile(text, "a block of the documentation", "exec"), {"__name__": "docs"})
    elif block.language == "bash":
        for command in _commands(text):
            _shell(command, folder, url)
    elif block.language == "toml":
        name = re.match(r"# (\S+)\n", text)
        assert name, "expected the file's name in the first line"
        (folder / name[1]).write_text(text)
    else:
        assert block.language == "text", f"a block of {block.language or 'no language'} is not run: mark it as text"


def _commands(text: str) -> Iterator[str]:
    """Lines, with those that a backslash continues."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.split("#")[0].strip():
            yield line


def _shell(command: str, folder: Path, url: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "SIGHTLINE_URL": url},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    allowed = {0, ANOMALY} if "sightline" in command else {0}
    assert done.returncode in allowed and "Traceback" not in done.stderr, f"{command}\n{done.stdout}{done.stderr}"
