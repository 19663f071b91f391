"""Who runs next: two queues, prefill first, the newest waits when pages run out (nano-vllm's scheme)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .cache import Pages
from .sequence import Sequence


@dataclass(frozen=True)
class Prefill:
    """Compute the next `count` positions of one sequence; alone, so that its verdict cannot depend on its neighbours."""

    sequence: Sequence
    count: int

    @property
    def sequences(self) -> list[Sequence]:
        return [self.sequence]


@dataclass(frozen=True)
class Decode:
    """One token for each of these."""

    sequences: list[Sequence]


class Scheduler:
    def __init__(self, pages: Pages, max_running: int, chunk: int) -> None:
        self.pages, self.max_running, self.chunk = pages, max_running, chunk
        self.waiting: deque[Sequence] = deque()
        self.running: deque[Sequence] = deque()
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and take its pages back."""
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)
        self.pages.release(sequence)

    def all(self) -> list[Sequence]:
        return [*self.waiting, *self.running]

    def schedule(self) -> Prefill | Decode | None:
        """The next step; None where nothing waits or runs."""
        return self._prefill() or self._decode()

    def computed(self, step: Prefill | Decode) -> list[Sequence]:
        """Account for a step that ran; returns the sequences whose next token is now known."""
        counts = [step.count] if isinstance(step, Prefill) else [1] * len(step.sequences)
        for sequence, count in zip(step.sequences, counts, strict=True):
            sequence.computed += count
            self.pages.publish(sequence)
        ready = [sequence for sequence in step.sequences if not sequence.fresh]
        if isinstance(step, Prefill) and ready:
            self.waiting.remove(step.sequence)
            self.running.append(step.sequence)
        return ready

    def _prefill(self) -> Prefill | None:
        if not self.waiting or len(self.running) >= self.max_running:
            return None
        first = self.waiting[0]
        if not first.table:
            self.pages.share(first)
        if not self.pages.grow(first, len(first.ids)):
            if self.running:
                self.pages.release(first)  # pages that wait would keep the running ones from finishing
            return None
        return Prefill(first, min(first.fresh, self.chunk))

    def _decode(self) -> Decode | None:
        chosen: list[Sequence] = []
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # preempted for an older one
            while not self.pages.grow(sequence, len(sequence.ids)):
                newest = self.running.pop()
                self._preempt(newest)
                if newest is sequence:
                    break
            else:
                chosen.append(sequence)
        return Decode(chosen) if chosen else None

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.pages.release(sequence)
        self.waiting.appendleft(sequence)
