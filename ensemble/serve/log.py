"""What the supervisor says, and what tritonserver says through it: lines for people, or a JSON object a line for collectors."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

_TRITON = re.compile(r"([DIWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\]]*\] (.*)")
_LEVELS = {"D": "debug", "I": "info", "W": "warning", "E": "error", "F": "error"}


@dataclass(frozen=True)
class Log:
    """`structured`: each line a JSON object of time, level, event, message and the event's own fields."""

    structured: bool = False

    def say(self, event: str, message: str, level: str = "info", **fields: str | int | float) -> None:
        """A line for whoever started us."""
        text = self._object(level, event, message, fields) if self.structured else f"sightline-serve: {message}"
        self._print(text, sys.stderr if level == "error" else sys.stdout)

    def relay(self, line: str) -> None:
        """A line of tritonserver's; one without its prefix is a step's warning or a piece of a crash."""
        match = _TRITON.fullmatch(line) if self.structured else None
        level, message = (_LEVELS[match[1]], _unquoted(match[2])) if match else ("warning", line)
        self._print(self._object(level, "tritonserver", message, {}) if self.structured else line, sys.stderr)

    def _object(self, level: str, event: str, message: str, fields: dict[str, str | int | float]) -> str:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, "level": level, "event": event, "message": message} | fields)

    def _print(self, line: str, where: TextIO) -> None:
        where.write(line + "\n")  # in one piece: two threads write
        where.flush()


def _unquoted(text: str) -> str:
    """tritonserver writes a message as a JSON string, mostly."""
    try:
        return str(json.loads(text))
    except ValueError:
        return text
