"""A line as its configuration describes it, and its run until a signal ends it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from ..client import Client
from ..errors import InvalidInput
from ..signals import stopped_by_signals
from .config import Config
from .folder import Folder
from .jsonl import Jsonl
from .runner import Line
from .stats import Stats
from .store import Store


@contextmanager
def assembled(config: Config) -> Iterator[Line]:
    try:
        store = Store(config.state, config.name)
    except sqlite3.OperationalError as error:
        raise InvalidInput(f"{config.state}: {error}; does another line run there?", "INVALID_ARGUMENT") from error
    try:
        if isinstance(config.source, Folder):
            _acquaint(config.source, store, config)
        with Client(config.url, config.pace.timeout, tls=config.tls, **asdict(config.policy)) as client:
            yield Line(config.name, client, config.source, config.sinks, store, config.pace, config.options)
    finally:
        store.close()


def _acquaint(source: Folder, store: Store, config: Config) -> None:
    """The folder hears what the line has taken in already, and where the line itself writes pictures."""
    overlays = [sink.overlays for sink in config.sinks.values() if isinstance(sink, Jsonl) and sink.overlays]
    if any(folder.resolve() == source.path.resolve() for folder in overlays):
        raise InvalidInput(f"overlays: {source.path} is the source; each overlay would be a new part", "INVALID_ARGUMENT")
    source.known, source.exclude = store.knows, (config.state, *overlays)


def run(config: Config, told: Callable[[Stats], None] | None = None, every: float = 10.0) -> Stats:
    """Runs it until its source ends. SIGINT and SIGTERM stop it gracefully; a second one as they always do."""
    with assembled(config) as line, stopped_by_signals(line.stop):
        return line.run(told, every)
