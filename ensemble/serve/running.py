"""A `sightline-serve` of one's own for as long as a `with` block lasts: for the demo, the benchmarks and the tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

PROGRAM = (sys.executable, "-m", "sightline_ensemble.serve.cli")


@dataclass
class Running:
    """A started server. Addresses are `host:port`; `lines` is all it printed so far."""

    process: subprocess.Popen[str]
    grpc: str = ""
    http: str = ""
    metrics: str = ""
    health: str = ""
    lines: list[str] = field(default_factory=list)

    def status(self, path: str = "ready") -> tuple[bool, dict[str, Any]]:
        """(200 or not, the body) of `/ready` or `/live`."""
        try:
            with urllib.request.urlopen(f"http://{self.health}/{path}", timeout=5) as answer:
                return True, json.load(answer)
        except urllib.error.HTTPError as error:
            return False, json.load(error)

    def wait_ready(self, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("sightline-serve is not ready:\n" + "\n".join(self.lines[-20:]))
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            return self.status()[0]
        except urllib.error.URLError:  # it has ended
            return False

    def stop(self, seconds: float = 30.0) -> int:
        """Ask it to stop, as Ctrl-C does, and wait; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def running(
    *arguments: str, ready: bool = True, program: Sequence[str] = PROGRAM, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Start `sightline-serve` on free ports and stop it at the end.

    Args:
        arguments: more of its command line, for example `--profile`, `tiny`.
        program: what is started, and its first arguments.
        env: added to the environment.
        ready: wait until it serves; otherwise only until it has said its ports.
    Raises:
        RuntimeError: it ended, or was not ready in time; with what it printed.
    """
    ports = [f"--{name}-port=0" for name in ("grpc", "http", "metrics", "health")]
    line = [*program, *ports, *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})})
    server, heard = Running(process), SimpleQueue[str]()
    listener = threading.Thread(target=_listen, args=(process, server.lines, heard), daemon=True)
    listener.start()
    try:
        _take_addresses(server, heard)
        if ready:
            server.wait_ready()
        yield server
    finally:
        try:
            server.stop()
        except subprocess.TimeoutExpired:
            process.kill()  # tritonserver and its stubs die with it
            process.wait()
        listener.join(5)


def _listen(process: subprocess.Popen[str], lines: list[str], heard: SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        heard.put(line)
    heard.put("")


def _take_addresses(server: Running, heard: SimpleQueue[str], seconds: float = 60.0) -> None:
    """Wait for the line `sightline-serve: grpc HOST:PORT, http HOST:PORT, ...`."""
    end = time.monotonic() + seconds
    while True:
        try:
            line = heard.get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            raise RuntimeError("sightline-serve said no addresses in time") from None
        if not line:
            raise RuntimeError("sightline-serve ended:\n" + "\n".join(server.lines[-20:]))
        found = dict(re.findall(r"\b(grpc|http|metrics|health) (\S+:\d+)", line))
        if len(found) == 4:
            for name, address in found.items():
                setattr(server, name, address)
            return
