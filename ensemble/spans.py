"""Spans of the calls that a step makes by itself, for an OpenTelemetry collector: OTLP over HTTP, JSON, as tritonserver sends its own.

Triton could make them from the caller's trace, but frees that when `execute()` returns: a step that calls later with it ends
the whole server (24.10: signal 11 at the first request). What lives longer is the trace's text, a W3C `traceparent`.

And tritonserver overlooks that header in some of its gRPC requests, one in ten here, for it reads on behind the header's end into
what lay in memory (`GrpcServerCarrier`). So the header also comes as a request's parameter, and then all spans are ours.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPException
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any

TRACES_VARIABLE = "SIGHTLINE_TRACES"
HEADER = "traceparent"
SERVICE = "sightline"
_SAMPLED = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f][13579bdf]")
_KEPT = 4096  # spans that wait for the collector; more are dropped, for no inspection waits for it


@dataclass(eq=False)
class Span:
    """A call under way. `parent`: the caller's `traceparent`; times are of CLOCK_MONOTONIC, in nanoseconds."""

    model: str
    parent: str
    request_id: str
    start_ns: int = field(default_factory=time.monotonic_ns)
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def inner(self, clocks: Mapping[str, Any]) -> None:
        """A span below this one for each step's clock among a model's outputs; what came from a cache took no time in this call."""
        for name, value in clocks.items():
            if name.endswith("_clock") and (start := int(value[0, 0])) >= self.start_ns:
                below = f"{self.parent[:36]}{self.id}-01"
                Span(name.removesuffix("_clock"), below, self.request_id, start).end(int(value[0, 1]))

    def end(self, now_ns: int, error: str = "") -> None:
        _outbox().put(self.told(now_ns, error))

    def told(self, now_ns: int, error: str) -> dict[str, Any]:
        """As OTLP's JSON has it."""
        trace, parent = _SAMPLED.fullmatch(self.parent).groups()  # type: ignore[union-attr]
        since = time.time_ns() - time.monotonic_ns()
        words = {"triton.model_name": self.model, "triton.request_id": self.request_id}
        return {
            "traceId": trace,
            "spanId": self.id,
            "parentSpanId": parent,
            "name": self.model,
            "kind": 1,
            "startTimeUnixNano": str(self.start_ns + since),
            "endTimeUnixNano": str(now_ns + since),
            "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in words.items() if value],
            "status": {"code": 2, "message": error} if error else {},
        }


def parent_of(request: Any) -> str:
    """The `traceparent` of the span that Triton made of a request, else the client's own; empty where it is not traced."""
    if not os.environ.get(TRACES_VARIABLE):
        return ""
    return _sampled(request.trace().get_context()) or overlooked(request)


def overlooked(request: Any) -> str:
    """The client's `traceparent`, where Triton has made no span for it."""
    if not os.environ.get(TRACES_VARIABLE) or request.trace().get_context():
        return ""
    return _sampled(request.parameters())


def _sampled(words: str | None) -> str:
    found = str(json.loads(words or "{}").get(HEADER, ""))
    return found if _SAMPLED.fullmatch(found) else ""


def make_up(request: Any, model: str, clocks: Mapping[str, Any]) -> None:
    """All spans of a request whose trace Triton has overlooked, from its steps' clocks; `decode` is the first."""
    if trace := overlooked(request):
        whole = Span(model, trace, request.request_id(), int(clocks["decode_clock"][0, 0]))
        whole.inner(clocks)
        whole.end(time.monotonic_ns())


@contextmanager
def span(model: str, trace: str, request_id: str) -> Iterator[Span | None]:
    """A call's span, from here to the end of the block; None where the caller is not traced."""
    if not trace:
        yield None
        return
    made, error = Span(model, trace, request_id), ""
    try:
        yield made
    except Exception as raised:
        error = getattr(raised, "code", type(raised).__name__)  # not its text, which may tell of the request's content
        raise
    finally:
        made.end(time.monotonic_ns(), error)


class _Outbox:
    """Sends from a thread of its own: at once where little comes, together what came meanwhile."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: Queue[dict[str, Any]] = Queue(_KEPT)
        Thread(target=self._run, name="spans", daemon=True).start()

    def put(self, told: dict[str, Any]) -> None:
        with suppress(Full):
            self._waiting.put_nowait(told)

    def _run(self) -> None:
        while True:
            told = [self._waiting.get()]
            with suppress(Empty):
                while True:
                    told.append(self._waiting.get_nowait())
            self._send(told)

    def _send(self, told: list[dict[str, Any]]) -> None:
        service = {"key": "service.name", "value": {"stringValue": SERVICE}}
        scopes = [{"scope": {"name": "sightline"}, "spans": told}]
        body = json.dumps({"resourceSpans": [{"resource": {"attributes": [service]}, "scopeSpans": scopes}]}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        with suppress(OSError, HTTPException):  # a collector that is away costs traces, nothing else
            urllib.request.urlopen(request, timeout=5).close()


@cache
def _outbox() -> _Outbox:
    return _Outbox(os.environ[TRACES_VARIABLE])
