"""What the Dockerfiles say, read as far as the tests need it: stages, and each stage's instructions with continuations joined."""

from __future__ import annotations

import importlib.util
import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .chart import ROOT

DOCKER = ROOT / "docker"


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    lines: tuple[tuple[str, str], ...]  # instruction, rest

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.lines if word == instruction]

    def last(self, instruction: str) -> str:
        return self.all(instruction)[-1]

    def command(self) -> list[str]:
        return json.loads(self.last("CMD"))

    def health_command(self) -> list[str]:
        return json.loads(self.last("HEALTHCHECK").split("CMD", 1)[1])


def stages(path: Path) -> list[Stage]:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found: list[list[str]] = []
    for line in lines:
        if line.startswith("FROM "):
            found.append([line])
        elif found:
            found[-1].append(line)
    return [_stage(block) for block in found]


def _stage(block: list[str]) -> Stage:
    words = block[0].split()
    return Stage(words[1], words[3], tuple(tuple(line.split(maxsplit=1)) for line in block[1:]))  # type: ignore[arg-type]


def copied(stage: Stage) -> list[str]:
    """What a stage takes out of the build context; `.` is all of it."""
    taken = [words for words in map(str.split, stage.all("COPY")) if not words[0].startswith("--from")]
    return [source.rstrip("/") for words in taken for source in words[:-1]]


def excluded(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a file out of the build context: Docker's rules, where the last pattern that fits decides."""
    parts = path.split("/")
    names = ["/".join(parts[: end + 1]) for end in range(len(parts))]  # a folder that is left out takes along all below it
    out = False
    for line in patterns:
        pattern = posixpath.normpath(line.removeprefix("!")).lstrip("/")  # Go's Clean: a slash at the end means nothing to Docker
        if any(re.fullmatch(_expression(pattern), name) for name in names):
            out = not line.startswith("!")
    return out


def _expression(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*$|\*|\?)", pattern)
    known = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, re.escape(part)) for part in parts)


def ignored() -> list[str]:
    """The patterns of .dockerignore."""
    lines = map(str.strip, (ROOT / ".dockerignore").read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def arguments(path: Path) -> dict[str, str]:
    """The defaults of the build arguments before the first stage."""
    head = path.read_text().split("\nFROM ", 1)[0]
    return dict(re.findall(r"^ARG (\w+)=(.*)$", head, re.MULTILINE))


def load(name: str) -> ModuleType:
    """A script of docker/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
