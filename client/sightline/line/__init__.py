"""The line: pictures from a source, each inspected, each result to every sink exactly once and in order."""

from .assemble import assembled, run
from .config import Config, read
from .parts import EndOfSource, Part, Record, Shot, Sink, Source, SourceError
from .runner import Line, Pace
from .stats import Stats
from .store import Store

__all__ = [
    "Config", "EndOfSource", "Line", "Pace", "Part", "Record", "Shot", "Sink", "Source", "SourceError", "Stats", "Store", "assembled",
    "read", "run",
]  # fmt: skip
