"""Several servers of `client_fake` that count what they execute, and one that can be taken away and brought back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from client_fake import Call, FakeTriton, answer


class Counted:
    """A server that counts its executions; `up` and `slow_s` are changed while it runs."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.slow_s = 0.0
        self.starts = 1
        self.fake: FakeTriton | None = FakeTriton(self._answer)
        self.url = self.fake.url

    def _answer(self, call: Call) -> Iterator[dict[str, Any]]:
        self.ids.append(call.id)
        end = time.monotonic() + self.slow_s
        while time.monotonic() < end and call.context.is_active() and not (self.fake and call.id in self.fake.left):
            time.sleep(0.005)
        yield from answer(call)

    def stop(self) -> None:
        if self.fake:
            self.fake.stop()
        self.fake = None

    def start(self) -> None:
        self.fake = FakeTriton(self._answer, self.url)
        self.starts += 1


def flap(server: Counted, end: threading.Event, up: float = 0.5, down: float = 0.2) -> threading.Thread:
    """Takes the server away and brings it back until `end` is set."""

    def run() -> None:
        while not end.wait(up):
            server.stop()
            end.wait(down)
            server.start()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def two() -> Iterator[tuple[Counted, Counted]]:
    """Of a fixture."""
    servers = Counted(), Counted()
    yield servers
    for server in servers:
        server.stop()


def both(pair: tuple[Counted, Counted]) -> str:
    return ",".join(server.url for server in pair)
