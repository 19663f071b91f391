"""What the engine counts. Who serves the numbers makes an instrument for each of `METRICS`; none does: they stay in memory.

The engine's thread only adds numbers up; `publish` hands them over, from a thread that may wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PREFIX = "sightline_lisa"
SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # upper bounds of a histogram's buckets


@dataclass(frozen=True)
class Metric:
    """`kind`: COUNTER, GAUGE or HISTOGRAM, as Triton names them."""

    name: str
    kind: str
    help: str

    @property
    def full_name(self) -> str:
        return f"{PREFIX}_{self.name}"


METRICS = (
    Metric("generated_tokens", "COUNTER", "Tokens of answers"),
    Metric("prompt_tokens", "COUNTER", "Tokens of prompts admitted, picture tokens included"),
    Metric("prefix_hit_tokens", "COUNTER", "Tokens of prompts that were not computed, for another request had the same beginning"),
    Metric("preemptions", "COUNTER", "Answers put back because the cache was full; they are computed again"),
    Metric("running", "GAUGE", "Sequences that get a token each step"),
    Metric("waiting", "GAUGE", "Sequences whose prompt is not computed yet"),
    Metric("cache_pages_used", "GAUGE", "Pages of the key-value cache that belong to sequences in flight"),
    Metric("cache_pages", "GAUGE", "Pages of the key-value cache"),
    Metric("first_token_seconds", "HISTOGRAM", "From the engine's receipt of a request to its first token"),
    Metric("mask_seconds", "HISTOGRAM", "From the engine's receipt of a request to its first [SEG] vector"),
)


class Instrument(Protocol):
    """A metric of Triton's Python backend: COUNTER has increment, GAUGE set, HISTOGRAM observe."""

    def increment(self, value: float) -> None: ...
    def set(self, value: float) -> None: ...
    def observe(self, value: float) -> None: ...


class Meter:
    """Numbers of counters and gauges as they are now, and the seconds observed since the last `publish`."""

    def __init__(self, make: Callable[[Metric], Instrument] | None = None) -> None:
        self.instruments = {metric: make(metric) for metric in METRICS} if make else {}
        self.numbers: dict[str, float] = {metric.name: 0 for metric in METRICS if metric.kind != "HISTOGRAM"}
        self.seconds: dict[str, deque[float]] = {metric.name: deque() for metric in METRICS if metric.kind == "HISTOGRAM"}
        self.told = dict.fromkeys(self.numbers, 0.0)

    def add(self, name: str, value: float = 1) -> None:
        self.numbers[name] += value

    def set(self, **numbers: float) -> None:
        self.numbers |= numbers

    def observe(self, name: str, seconds: float) -> None:
        if self.instruments:
            self.seconds[name].append(seconds)

    def publish(self) -> None:
        """Hand over what is new; one thread's affair."""
        for metric, instrument in self.instruments.items():
            if metric.kind == "HISTOGRAM":
                while waiting := self.seconds[metric.name]:
                    instrument.observe(waiting.popleft())
                continue
            value, told = self.numbers[metric.name], self.told[metric.name]
            if value != told:
                instrument.set(value) if metric.kind == "GAUGE" else instrument.increment(value - told)
                self.told[metric.name] = value
