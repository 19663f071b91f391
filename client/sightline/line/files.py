"""Sources and sinks that need nothing but the disk and HTTP: folder, snapshot; JSONL with overlays, webhook."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from ..draw import overlay
from ..errors import InvalidInput
from ..report import parse
from .parts import EndOfSource, Load, Record, Shot, SourceError

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
HTTP_ERRORS = (urllib.error.URLError, OSError, ValueError)


@dataclass
class Folder:
    """Pictures as they appear below `path`, by time and name. A file is taken when its size has not changed since the last look.

    `after`: what happens to a file that was taken in: "keep" (it is remembered by name, size and time) or "delete". `once`: the source
    ends when all files are taken in.
    """

    path: Path
    after: Literal["keep", "delete"] = "keep"
    once: bool = False
    known: Callable[[str], bool] = field(default=lambda key: False, repr=False)
    paced = False

    def __post_init__(self) -> None:
        self._sizes: dict[Path, int] = {}
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
            try:
                picture = path.read_bytes()
            except OSError:
                continue
            if self._key(path) != key:  # written again meanwhile: the next look sees whether it is whole
                continue
            self._taken.add(key)
            self._last = path, key
            return Shot(picture, str(path.relative_to(self.path)), key)
        if self.once and not self._sizes:
            raise EndOfSource
        return None

    def close(self) -> None:
        self._clear()

    def _clear(self) -> None:
        """Deletes the last file, once the line knows it: then the picture is on the line's own disk."""
        if self._last and self.after == "delete" and self.known(self._last[1]):
            self._last[0].unlink(missing_ok=True)
        self._last = None

    def _key(self, path: Path) -> str | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return f"{path.relative_to(self.path)}|{stat.st_size}|{stat.st_mtime_ns}"

    def _ready(self) -> Iterator[tuple[Path, str]]:
        found: list[tuple[int, Path, str, int]] = []
        for path in self.path.rglob("*"):
            if path.suffix.lower() not in EXTENSIONS:
                continue
            key = self._key(path)
            if key and key not in self._taken:
                size, time_ns = map(int, key.rsplit("|", 2)[1:])
                found.append((time_ns, path, key, size))
        still = {path: size for _, path, _, size in found}
        grown, self._sizes = self._sizes, still
        for _, path, key, size in sorted(found):
            if grown.get(path) != size:
                continue
            if self.known(key):
                self._taken.add(key)
            else:
                yield path, key


@dataclass
class Snapshot:
    """A camera or smart sensor that gives its picture over HTTP, asked once a takt."""

    url: str
    timeout: float = 2.0
    paced = True

    def open(self) -> None:
        self._count = 0

    def take(self) -> Shot:
        try:
            with urllib.request.urlopen(self.url, timeout=self.timeout) as answer:
                picture = answer.read()
        except HTTP_ERRORS as error:
            raise SourceError(f"{self.url}: {error}") from error
        if not picture:
            raise SourceError(f"{self.url}: an empty picture")
        self._count += 1
        return Shot(picture, f"snapshot-{self._count:06d}")

    def close(self) -> None:
        pass


@dataclass
class Jsonl:
    """A line for each record; with `overlays`, a picture for each verdict. Exactly once also when the process was killed."""

    path: Path
    overlays: Path | None = None
    full: bool = True

    def open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = self.path.open("ab+")
        self._last = self._last_seq()
        if self.overlays:
            self.overlays.mkdir(parents=True, exist_ok=True)

    def deliver(self, record: Record, picture: Load) -> None:
        if record.seq <= self._last:
            return
        if self.overlays and record.report:
            self._draw(record, picture)
        self._file.write(record.json(self.full).encode() + b"\n")
        self._file.flush()
        self._last = record.seq

    def close(self) -> None:
        self._file.close()

    def _last_seq(self) -> int:
        """Of the last whole line; a torn one behind it is cut off."""
        size, block = self._file.seek(0, os.SEEK_END), 1 << 16
        while True:
            begin = self._file.seek(max(0, size - block))
            tail = self._file.read()
            end = tail.rfind(b"\n")
            start = tail.rfind(b"\n", 0, max(end, 0))
            if begin == 0 or start >= 0:
                break
            block *= 4
        self._file.truncate(begin + end + 1)
        return int(json.loads(tail[start + 1 : end])["seq"]) if end >= 0 else 0

    def _draw(self, record: Record, picture: Load) -> None:
        content = picture()
        if content is None or self.overlays is None:
            return
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(record.name).stem)[:80]
        path = self.overlays / f"{record.part:09d}_{stem}.png"
        draft = path.with_suffix(".part")
        try:
            overlay(content, parse(json.dumps(record.report))).save(draft, "PNG")
        except InvalidInput:  # a picture that only the server can read: the record must not wait for ever
            return
        os.replace(draft, path)


@dataclass
class Webhook:
    """POSTs each record as JSON; any 2xx means that it was received. `Idempotency-Key` is the same when it is sent again."""

    url: str
    timeout: float = 5.0
    full: bool = False
    headers: dict[str, Any] = field(default_factory=dict)

    def open(self) -> None:
        pass

    def deliver(self, record: Record, picture: Load) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"{record.line}-{record.seq}", **self.headers}
        request = urllib.request.Request(self.url, record.json(self.full).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=self.timeout):
            pass

    def close(self) -> None:
        pass
