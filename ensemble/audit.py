"""One line for each verdict given, for those who must show later what was decided by what: `sightline-serve --audit FILE`.

Hashes instead of contents: a line names the request, the verdict, the artefacts and the SHA-256 of the question, and neither
picture nor words. Lines of several processes do not mix: who writes holds the file's lock, so that what a full volume took of a line can
be cut off again. The file is opened for each line anew, so whoever renames it has a complete one, and no line is lost.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from datetime import UTC, datetime
from typing import Any

AUDIT_VARIABLE = "SIGHTLINE_AUDIT"
_KEPT = ("verdict", "score", "profile", "artefacts")


def note(request_id: str, report: bytes) -> None:
    """Append the line of a REPORT; nothing where no audit is kept. OSError where it cannot be written: then no verdict is given."""
    if not os.environ.get(AUDIT_VARIABLE):
        return
    file = os.open(os.environ[AUDIT_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        _append(file, line(request_id, json.loads(report), datetime.now(UTC)))
    finally:
        os.close(file)


def _append(file: int, content: bytes) -> None:
    """All of it or nothing: a volume with a little room left takes a part without an error."""
    size = os.fstat(file).st_size
    if os.write(file, content) < len(content):
        os.ftruncate(file, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def line(request_id: str, content: dict[str, Any], now: datetime) -> bytes:
    """A JSON object and a line end; `time` is ISO 8601, UTC, in milliseconds."""
    prompt = hashlib.sha256(content["prompt"].encode()).hexdigest()
    first = {"time": now.isoformat(timespec="milliseconds"), "request": request_id}
    return json.dumps(first | {name: content[name] for name in _KEPT} | {"prompt": f"sha256:{prompt}"}).encode() + b"\n"
