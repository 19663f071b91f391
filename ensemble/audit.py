"""One line for each verdict given, for those who must show later what was decided by what: `sightline-serve --audit FILE`.

Hashes instead of contents: a line names the request, the verdict, the artefacts and the SHA-256 of the question, and neither
picture nor words. Lines of several processes do not mix: each is one write to a file that is only appended to.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from functools import cache
from typing import Any

AUDIT_VARIABLE = "SIGHTLINE_AUDIT"
_KEPT = ("verdict", "score", "profile", "artefacts")


def note(request_id: str, report: bytes) -> None:
    """Append the line of a REPORT; nothing where no audit is kept. OSError where it cannot be written: then no verdict is given."""
    if os.environ.get(AUDIT_VARIABLE):
        os.write(_file(os.environ[AUDIT_VARIABLE]), line(request_id, json.loads(report), datetime.now(UTC)))


def line(request_id: str, content: dict[str, Any], now: datetime) -> bytes:
    """A JSON object and a line end; `time` is ISO 8601, UTC, in milliseconds."""
    prompt = hashlib.sha256(content["prompt"].encode()).hexdigest()
    first = {"time": now.isoformat(timespec="milliseconds"), "request": request_id}
    return json.dumps(first | {name: content[name] for name in _KEPT} | {"prompt": f"sha256:{prompt}"}).encode() + b"\n"


@cache
def _file(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
