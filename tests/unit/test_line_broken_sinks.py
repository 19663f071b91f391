"""Sinks whose other side is restarted, redirects, lacks a variable or was asked for a secure connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sightline
from client_fake import FakeTriton, answer
from line_fake import Memory, Pictures, check_history
from line_plant import Opc, broker, free_port, listener
from sightline.line import Line, Pace, Record, Shot, Store
from sightline.line.mqtt import Mqtt
from sightline.line.opcua import OpcUa
from sightline.line.over_http import Webhook
from waiting import within

VERDICT = Record(7, "cell", 7, "x", 0.0, "not_inspected", False, None, {"type": "Timeout", "message": "late"}, "h1")


class Gated(Pictures):
    """Gives pictures as far as it is let."""

    allowed = 2

    def take(self) -> Shot | None:
        return super().take() if self.given < self.allowed or self.allowed == self.count else None


@pytest.fixture
def running(tmp_path: Path) -> Iterator[object]:
    """`running(sink)`: a line in a thread and its source; the line must end without any fault."""
    fake, store, source, memory = FakeTriton(answer), Store(tmp_path, "cell"), Gated(6), Memory()
    ended: list[object] = []
    threads: list[threading.Thread] = []
    with sightline.Client(fake.url) as client:

        def start(sink: object) -> tuple[Gated, Memory]:
            line = Line("cell", client, source, {"sink": sink, "memory": memory}, store, Pace(0.001, 5, stop=20))
            threads.append(threading.Thread(target=lambda: ended.append(line.run())))
            threads[0].start()
            return source, memory

        yield start
        source.allowed = source.count
        threads[0].join(30)
    store.close()
    fake.stop()
    assert ended and ended[0].faults == {} and ended[0].delivered == {"sink": 6, "memory": 6}
    check_history(memory.got)


def test_a_broker_that_is_restarted_gets_what_waited(running) -> None:
    """Records that were handed over while it was gone are acknowledged later, and the line goes on with the next."""
    port = free_port()
    sink = Mqtt("127.0.0.1", "cell", port, timeout=0.3)
    with broker(port):
        source, memory = running(sink)
        assert within(10, lambda: len(memory.got) == 2 and sink._sent is None and sink._connected.is_set())
    assert within(10, lambda: not sink._connected.is_set())
    source.allowed = 4
    assert within(10, lambda: sink._sent is not None)
    with broker(port), listener(port, "cell") as heard:
        assert within(20, lambda: sink._connected.is_set())
        source.allowed = source.count
        parts = lambda: [message["seq"] for topic, message, _ in heard.got if topic == "cell/part"]  # noqa: E731
        assert within(20, lambda: parts()[-3:] == [4, 5, 6])


def test_a_missing_variable_leaves_no_session_behind() -> None:
    plant = Opc(free_port())
    sink = OpcUa(plant.url, plant.prefix + "Wrong.", timeout=1)
    before = threading.active_count()
    try:
        for _ in range(2):
            with pytest.raises(Exception, match="BadNodeIdUnknown"):
                sink.open()
        assert within(5, lambda: threading.active_count() == before)
    finally:
        plant.stop()


@pytest.fixture
def redirecting() -> Iterator[tuple[str, list[str]]]:
    """An address that sends everybody to another one, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 - the library's name
            asked.append(f"POST {self.path}")
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(302)
            self.send_header("Location", "/login")
            self.end_headers()

        def do_GET(self) -> None:  # noqa: N802 - the library's name
            asked.append(f"GET {self.path}")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/parts", asked
    server.shutdown()
    server.server_close()


def test_a_redirect_is_no_delivery(redirecting: tuple[str, list[str]]) -> None:
    url, asked = redirecting
    sink = Webhook(url)
    sink.open()
    with pytest.raises(OSError, match="302"):
        sink.deliver(VERDICT, lambda: None)
    assert asked == ["POST /parts"]


@pytest.mark.parametrize("given", [{"root": Path("ca.pem")}, {"chain": Path("me.pem")}, {"chain": Path("me.pem"), "key": Path("me.key")}])
def test_any_pem_file_makes_the_connection_to_a_broker_tls(monkeypatch: pytest.MonkeyPatch, given: dict[str, Path]) -> None:
    asked: list[tuple[str | None, ...]] = []
    monkeypatch.setattr("paho.mqtt.client.Client.tls_set", lambda _, *files: asked.append(files))
    Mqtt("h", "t", **given)._make()
    assert asked == [tuple(str(given[name]) if name in given else None for name in ("root", "chain", "key"))]
    with pytest.raises(ValueError, match="give chain too"):
        Mqtt("h", "t", key=Path("me.key"))
