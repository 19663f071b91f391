"""What bounds the engine, and how many threads of a CPU a step is worth."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch

VARIABLE = "SIGHTLINE_LISA_"


@dataclass(frozen=True)
class Limits:
    """Each number can be set from outside by `SIGHTLINE_LISA_<NAME>`.

    Args:
        running: sequences that get a token each step.
        cache_tokens: positions of the key-value cache; 0: as many as the free memory allows (`memory.py`).
        chunk: positions of a prompt computed in one step.
        waiting: requests in the engine at most.
        patience: seconds for a request without a deadline.
        threads: of a CPU at most.
    """

    running: int = 16
    cache_tokens: int = 0
    chunk: int = 256
    waiting: int = 256
    patience: float = 120.0
    threads: int = 2

    def __post_init__(self) -> None:
        for each in fields(self):
            value, least = getattr(self, each.name), 0 if each.name == "cache_tokens" else 1
            if not value >= least and each.name != "patience":
                raise ValueError(f"{VARIABLE}{each.name.upper()}: {value}, expected {least} or above")

    @staticmethod
    def of(device: torch.device) -> Limits:
        """Those of the machine, changed by the environment. Raises ValueError naming the variable."""
        chosen: dict[str, float] = {"running": 32, "chunk": 1024} if device.type == "cuda" else {"threads": min(2, os.cpu_count() or 1)}
        for each in fields(Limits):
            if text := os.environ.get(name := f"{VARIABLE}{each.name.upper()}"):
                try:
                    chosen[each.name] = type(each.default)(text)  # type: ignore[call-arg]
                except ValueError:
                    raise ValueError(f"{name}: {text!r}, expected a number") from None
        return Limits(**chosen)  # type: ignore[arg-type]


class Threads:
    """For a prompt every core while nobody else needs one, else a single one; for a token a single one.

    A second core nearly halves a prompt's step where it is free. Where another process runs there, each of the step's many
    short products waits for a thread that waits for its core, and the step takes up to fifty times as long. A token gains a
    third by it in an engine alone, and loses among the other steps of a server (docs/engine.md).
    """

    EVERY_S, MOST_OTHERS = 0.25, 0.2  # seconds between two looks; cores that others may use

    def __init__(self, most: int) -> None:
        self.most, self.chosen, self.seen = most, 1, look()

    def set(self, prompt: bool) -> None:
        """Before a step, of a prompt or of tokens."""
        if self.most > 1 and time.monotonic() - self.seen.at > self.EVERY_S:
            now = look()
            others = (now.busy - self.seen.busy) - (now.own - self.seen.own)
            self.chosen = self.most if others < self.MOST_OTHERS * (now.at - self.seen.at) else 1
            self.seen = now
        use(self.chosen if prompt else 1)


@dataclass(frozen=True)
class Look:
    """Seconds: the clock, processor time of everybody on the cores that we may use, and our own."""

    at: float
    busy: float
    own: float


def look() -> Look:
    ours, ticks = {f"cpu{number}" for number in os.sched_getaffinity(0)}, 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name in ours:
            user, nice, system, _idle, _iowait, *rest = map(int, counts[:8])
            ticks += user + nice + system + sum(rest)
    return Look(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


def use(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
