"""A line as its configuration describes it, and its run until a signal ends it."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from ..client import Client
from ..errors import InvalidInput
from .config import Config
from .files import Folder
from .runner import Line
from .stats import Stats
from .store import Store


@contextmanager
def assembled(config: Config) -> Iterator[Line]:
    try:
        store = Store(config.state, config.name)
    except sqlite3.OperationalError as error:
        raise InvalidInput(f"{config.state}: {error}; does another line run there?", "INVALID_ARGUMENT") from error
    if isinstance(config.source, Folder):
        config.source.known = store.knows
    try:
        with Client(config.url, config.pace.timeout, tls=config.tls, **asdict(config.policy)) as client:
            yield Line(config.name, client, config.source, config.sinks, store, config.pace, config.options)
    finally:
        store.close()


def run(config: Config, told: Callable[[Stats], None] | None = None, every: float = 10.0) -> Stats:
    """Runs it until its source ends. SIGINT and SIGTERM stop it gracefully; a second one as they always do."""
    with assembled(config) as line, _stopped_by_signals(line):
        return line.run(told, every)


@contextmanager
def _stopped_by_signals(line: Line) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _: object) -> None:
        line.stop()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
