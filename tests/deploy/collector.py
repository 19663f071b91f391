"""A stand-in for an OpenTelemetry collector: OTLP over HTTP, JSON as Triton sends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@dataclass
class Collector:
    url: str = ""
    spans: list[dict[str, Any]] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def of(self, trace: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["traceId"].lower() == trace]

    def of_id(self, trace: str) -> dict[str, dict[str, Any]]:
        return {span["spanId"].lower(): span for span in self.of(trace)}

    def above(self, trace: str) -> set[str]:
        """The ids that a trace's spans name as their parents."""
        return {span.get("parentSpanId", "").lower() for span in self.of(trace)}

    def take(self, content: dict[str, Any]) -> None:
        for resource in content["resourceSpans"]:
            attributes = resource.get("resource", {}).get("attributes", [])
            self.services |= {a["value"]["stringValue"] for a in attributes if a["key"] == "service.name"}
            self.spans += [span for scope in resource["scopeSpans"] for span in scope["spans"]]


@contextmanager
def collector() -> Iterator[Collector]:
    heard = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        heard.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        yield heard
        server.shutdown()


def model_of(span: dict[str, Any]) -> str:
    """The model of a span; empty where it names none."""
    return _attribute(span, "triton.model_name")


def request_of(span: dict[str, Any]) -> str:
    """The request id of a span; empty where it names none."""
    return _attribute(span, "triton.request_id")


def milliseconds(span: dict[str, Any]) -> float:
    return (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e6


def _attribute(span: dict[str, Any], key: str) -> str:
    return next((a["value"]["stringValue"] for a in span.get("attributes", []) if a["key"] == key), "")
