"""`/ready` and `/live`: what a load balancer or Kubernetes asks, answered truthfully and at once, with the reason; `/metrics` the same
for Prometheus, for a tritonserver that is gone can tell it nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Status:
    """What the supervisor knows.

    ready: a real inference has passed and the process of every step is alive.
    live: worth keeping; false only when restarting has not helped, so that a restart from outside is the next thing to try.
    """

    ready: bool
    live: bool
    reason: str
    profile: str = ""
    restarts: int = 0

    @property
    def metrics(self) -> str:
        """In Prometheus' text format."""
        numbers = (
            ("sightline_ready", "gauge", "1: a real inference has passed and every step lives", self.ready),
            ("sightline_live", "gauge", "0: restarting has not helped", self.live),
            ("sightline_restarts_total", "counter", "Restarts of tritonserver by its supervisor", self.restarts),
        )
        lines = ((f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {int(value)}") for name, kind, text, value in numbers)
        return "".join(f"{line}\n" for block in lines for line in block)


class Health:
    """The health port. `status` is asked once a request, from another thread."""

    def __init__(self, host: str, port: int, status: Callable[[], Status]) -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(status))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(status: Callable[[], Status]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # a silent connection must not hold a thread for ever

        def do_GET(self) -> None:
            now, path = status(), self.path.split("?")[0]
            if path == "/metrics":
                return self._answer(200, "text/plain; version=0.0.4; charset=utf-8", now.metrics)
            answers = {"/ready": now.ready, "/live": now.live}
            if path not in answers:
                return self._answer(404, "application/json", json.dumps({"error": "ask /ready, /live or /metrics"}) + "\n")
            self._answer(200 if answers[path] else 503, "application/json", json.dumps(asdict(now)) + "\n")

        def _answer(self, code: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass  # a probe every few seconds would drown the server's log

    return Handler
