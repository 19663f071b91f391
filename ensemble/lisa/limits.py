"""What bounds the engine, and how many threads of a CPU a step is worth."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

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


@dataclass
class Choice:
    """Threads for one kind of step: how long it takes with them, and in how many steps the other number is tried."""

    threads: int = 1
    seconds: float = 0.0
    left: int = 2
    pause: int = 8


class Threads:
    """One thread or all for a token, whichever is faster at the moment.

    A second core nearly halves a step where it is free. Where another process runs there, each of the step's short products
    waits for a thread that waits for its core, and the step takes several times as long. Only trying tells; a number tried
    in vain is tried again after twice as many steps.
    """

    LONGEST = 512

    def __init__(self, most: int) -> None:
        self.most = most
        self.choices: dict[Hashable, Choice] = {}

    @contextmanager
    def around(self, kind: Hashable) -> Iterator[None]:
        """Around one step; steps of a kind take about the same time."""
        choice = self.choices.setdefault(kind, Choice())
        choice.left -= 1
        trial = self.most > 1 and choice.left < 0
        threads = (1 if choice.threads > 1 else self.most) if trial else choice.threads
        use(threads)
        begin = time.perf_counter()
        yield
        self._note(choice, threads, time.perf_counter() - begin)

    def _note(self, choice: Choice, threads: int, seconds: float) -> None:
        if threads == choice.threads:
            if threads > 1 and seconds > 2 * choice.seconds > 0:
                choice.left, choice.pause = 0, 8  # somebody else came to the other core
            choice.seconds = seconds if not choice.seconds else 0.8 * choice.seconds + 0.2 * seconds
        elif seconds < choice.seconds:
            choice.threads, choice.seconds, choice.left, choice.pause = threads, seconds, 8, 8
        else:
            choice.pause = min(2 * choice.pause, self.LONGEST)
            choice.left = choice.pause


def use(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
