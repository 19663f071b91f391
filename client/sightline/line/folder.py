"""A folder as a source of pictures."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .parts import EndOfSource, Shot, SourceError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
PATIENCE = 10  # times `settle`: so long may a file stay empty or locked before it counts as a part without a picture


@dataclass
class Folder:
    """Pictures as they appear below `path`, by time and name. A file is taken when its size and time have not changed for `settle`
    seconds; one that stays empty or cannot be read ends as not inspected.

    `after`: what happens to a file that was taken in: "keep" (it is remembered by name, size and time) or "delete". `once`: the source
    ends when all files are taken in. `exclude`: folders that are left out, for what the line itself writes.
    """

    path: Path
    after: Literal["keep", "delete"] = "keep"
    once: bool = False
    settle: float = 0.5
    known: Callable[[str], bool] = field(default=lambda key: False, repr=False)
    exclude: tuple[Path, ...] = field(default=(), repr=False)
    paced = False

    def __post_init__(self) -> None:
        self._seen: dict[str, float] = {}  # files that were not taken yet, as they are now, and since when
        self._found: deque[tuple[Path, str]] = deque()
        self._taken: set[str] = set()
        self._last: tuple[Path, str] | None = None

    def open(self) -> None:
        if not self.path.is_dir():
            raise SourceError(f"{self.path}: no such folder")

    def take(self) -> Shot | None:
        self._clear()
        if not self._found:
            self._found.extend(self._ready())
        while self._found:
            path, key = self._found.popleft()
            picture = _content(path)
            if self._key(path) != key:  # written again meanwhile: the next look sees whether it is whole
                continue
            if not picture and self._age(key) < PATIENCE * self.settle:
                continue
            self._taken.add(key)
            removed = self.after == "delete" and bool(picture)
            self._last = (path, key) if removed else None
            return Shot(picture, str(path.relative_to(self.path)), key, removed)
        if self.once and not self._seen:
            raise EndOfSource
        return None

    def close(self) -> None:
        self._clear()

    def _clear(self) -> None:
        """Deletes the last file, once the line knows it: then the picture is on the line's own disk."""
        if self._last and self.known(self._last[1]):
            self._last[0].unlink(missing_ok=True)
        self._last = None

    def _age(self, key: str) -> float:
        """Seconds since the file was first seen as it is. By this machine's clock: another one may have written the file's time."""
        return time.monotonic() - self._seen[key]

    def _key(self, path: Path) -> str | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return f"{path.relative_to(self.path)}|{stat.st_size}|{stat.st_mtime_ns}"

    def _ready(self) -> Iterator[tuple[Path, str]]:
        found = sorted((int(key.rpartition("|")[2]), path, key) for path, key in self._files())
        self._taken &= {key for *_, key in found}  # what is gone needs no remembering
        now = time.monotonic()
        self._seen = {key: self._seen.get(key, now) for *_, key in found if key not in self._taken}
        for _, path, key in found:
            if key in self._taken or self._seen[key] == now or self._age(key) < self.settle:
                continue
            if self.known(key):
                self._taken.add(key)
            else:
                yield path, key

    def _files(self) -> Iterator[tuple[Path, str]]:
        left_out = tuple(f"{folder}{os.sep}" for folder in self._excluded())
        for path in self.path.rglob("*"):
            if path.suffix.lower() in EXTENSIONS and not str(path).startswith(left_out) and path.is_file():
                key = self._key(path)
                if key:
                    yield path, key

    def _excluded(self) -> Iterator[Path]:
        """As `rglob` names them. A folder around this one is no reason to leave all out."""
        here = self.path.resolve()
        for folder in self.exclude:
            if folder.resolve() != here and folder.resolve().is_relative_to(here):
                yield self.path / folder.resolve().relative_to(here)


def _content(path: Path) -> bytes:
    """Nothing where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
