"""A file as a sink: a JSON line for each record, and overlays."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..draw import overlay
from ..errors import InvalidInput
from ..report import parse
from .parts import Load, Record


@dataclass
class Jsonl:
    """A line for each record; with `overlays`, a picture for each verdict, PART_NAME_HISTORY.png. Exactly once also when the process was
    killed, in a file that no other line writes to.
    """

    path: Path
    overlays: Path | None = None
    full: bool = True

    def open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = self.path.open("ab+")
        self._history, self._last = self._last_record()
        if self.overlays:
            self.overlays.mkdir(parents=True, exist_ok=True)

    def deliver(self, record: Record, picture: Load) -> None:
        if record.history == self._history and record.seq <= self._last:
            return
        if self.overlays and record.report:
            self._draw(record, picture)
        self._file.write(record.json(self.full).encode() + b"\n")
        self._file.flush()
        self._history, self._last = record.history, record.seq

    def close(self) -> None:
        self._file.close()

    def _last_record(self) -> tuple[str, int]:
        """History and number of the last whole line; a torn one behind it is cut off. Numbers of another history say nothing."""
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
        last = json.loads(tail[start + 1 : end]) if end >= 0 else {}
        return last.get("history", ""), int(last.get("seq", 0))

    def _draw(self, record: Record, picture: Load) -> None:
        content = picture()
        if content is None or self.overlays is None:
            return
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(record.name).stem)[:80]
        path = self.overlays / f"{record.part:09d}_{stem}_{record.history[:8]}.png"  # a part's number is its history's own
        draft = path.with_suffix(".part")
        try:
            overlay(content, parse(json.dumps(record.report))).save(draft, "PNG")
        except (InvalidInput, ValueError):  # a picture that only the server can read: the record must not wait for ever
            return
        os.replace(draft, path)
