"""Is it really serving? A small picture through `inspect`, and the counts of what clients' own requests proved already.

HTTP by the standard library: the supervisor stays small and needs no client package.
"""

from __future__ import annotations

import http.client
import json
import os
import struct
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from enum import Enum

_SIDE = 64


class Outcome(Enum):
    GOOD = "good"
    BUSY = "busy"  # refused at the door because as many requests are in flight as are let in
    LATE = "late"  # past its deadline: a crowd in front of it, or a step that hangs
    BAD = "bad"


@dataclass(frozen=True)
class Probe:
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Counts:
    """Inspections answered, plain or streamed, and plain ones failed, since the server's start."""

    good: int = 0
    failed: int = 0


def alive(url: str, seconds: float = 1.0) -> bool:
    """Triton's own readiness: its models are loaded (24.10 says nothing about the processes behind them)."""
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=seconds) as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException):
        return False


def counts(url: str, seconds: float = 0.5) -> Counts | None:
    """How clients' inspections have ended so far; None where the server does not say.

    Success is that of `report`, the last step of both ways: Triton counts a request of `inspect_stream` as one when its step has taken
    it in, answered or not. A stream has a report when it finds something and one at its end.
    """
    answered, asked = _ended(url, "report", seconds), _ended(url, "inspect", seconds)
    return None if answered is None or asked is None else Counts(answered.good, asked.failed)


def _ended(url: str, model: str, seconds: float) -> Counts | None:
    try:
        with urllib.request.urlopen(f"{url}/v2/models/{model}/stats", timeout=seconds) as answer:
            entries = [entry["inference_stats"] for entry in json.load(answer)["model_stats"]]
    except urllib.error.HTTPError:
        return Counts()  # a repository without this model
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    return Counts(*(sum(entry[how]["count"] for entry in entries) for how in ("success", "fail")))


def probe(url: str, seconds: float) -> Probe:
    """One real inference with a deadline: decode, both encoders, one token of LISA, a report."""
    body, header = _request(seconds)
    headers = {"Inference-Header-Content-Length": str(header), "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{url}/v2/models/inspect/infer", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=seconds + 1) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        line = _error_line(error)
        return Probe(_outcome(line), line)
    except TimeoutError:
        return Probe(Outcome.LATE, f"no answer to a test picture within {seconds:g} s")
    except (OSError, http.client.HTTPException) as error:
        return Probe(Outcome.BAD, f"no connection for a test picture ({type(error).__name__})")
    return Probe(Outcome.GOOD) if b"REPORT" in content else Probe(Outcome.BAD, "a test picture was answered without a report")


def _outcome(line: str) -> Outcome:
    if "queue full" in line or "maximum queue size" in line:
        return Outcome.BUSY
    return Outcome.LATE if "timeout" in line else Outcome.BAD


def _error_line(error: urllib.error.HTTPError) -> str:
    try:
        text = json.loads(error.read())["error"]
    except (OSError, ValueError, KeyError):
        text = f"HTTP {error.code}"
    return " ".join(str(text).split())


def _request(seconds: float) -> tuple[bytes, int]:
    """The body of a KServe v2 request with binary data, and the length of its JSON part."""
    shown = picture()
    image = struct.pack("<I", len(shown)) + shown
    tokens = struct.pack("<i", 1)
    inputs = [_input("IMAGE", "BYTES", len(image)), _input("MAX_TOKENS", "INT32", len(tokens))]
    outputs = [{"name": "REPORT", "parameters": {"binary_data": True}}]
    header = {"id": "canary", "parameters": {"timeout": int(seconds * 1e6)}, "inputs": inputs, "outputs": outputs}
    text = json.dumps(header).encode()
    return text + image + tokens, len(text)


def _input(name: str, datatype: str, size: int) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": [1], "parameters": {"binary_data_size": size}}


def picture() -> bytes:
    """A grey ramp as a PNG, 64 x 64, another one each time: no step may answer from a cache."""
    tone = struct.unpack("<H", os.urandom(2))[0]
    rows = b"".join(b"\0" + bytes((2 * (x + y) + (tone >> (y % 16) & 1)) % 256 for x in range(_SIDE)) for y in range(_SIDE))
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
