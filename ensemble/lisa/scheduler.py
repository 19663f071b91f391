"""Who runs next: two queues; a chunk of a prompt and a token for everybody who answers take turns (after nano-vllm).

A long prompt delays nobody by more than two steps: one of its chunks at a time stands before a token of those who answer, and
after a chunk that leaves its prompt unfinished a prompt of one chunk goes first. When pages run out the newest give theirs.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

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
        self.chunked: Sequence | None = None  # whose prompt the last prefill left unfinished
        self.decode_next = False
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Before those who were admitted to the server later and have not begun: a request may come here twice, to look and to explain.
        Without a ticket it goes to the end."""
        admitted = sequence.request.ticket[0]  # numbers grow
        later = (i for i, other in enumerate(self.waiting) if not other.table and other.request.ticket[0] > admitted > 0)
        self.waiting.insert(next(later, len(self.waiting)), sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and take its pages back."""
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)
        self.pages.release(sequence)

    def back(self, sequence: Sequence) -> None:
        """One that runs has several positions to compute at once: like the rest of a prompt, before all others."""
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)

    def all(self) -> list[Sequence]:
        return [*self.waiting, *self.running]

    def schedule(self) -> Prefill | Decode | None:
        """The next step; None where nothing waits or runs."""
        step = (self._decode() or self._prefill()) if self.decode_next else (self._prefill() or self._decode())
        self.decode_next = isinstance(step, Prefill)
        return step

    def computed(self, step: Prefill | Decode) -> list[Sequence]:
        """Account for a step that ran; returns the sequences whose next token is now known."""
        counts = [step.count] if isinstance(step, Prefill) else [1] * len(step.sequences)
        for sequence, count in zip(step.sequences, counts, strict=True):
            sequence.computed += count
            self.pages.publish(sequence)
        ready = [sequence for sequence in step.sequences if not sequence.fresh]
        if isinstance(step, Prefill):
            self.chunked = None if ready else step.sequence
            if ready:
                self.waiting.remove(step.sequence)
                self.running.append(step.sequence)
        return ready

    def _prefill(self) -> Prefill | None:
        if not self.waiting or len(self.running) >= self.max_running:
            return None
        for sequence in self._candidates():
            if self._provide(sequence):
                return Prefill(sequence, min(sequence.fresh, self.chunk))
        if self.running:
            return None  # they will give pages back
        while self._take_back():
            pass
        self._provide(self.waiting[0])
        return Prefill(self.waiting[0], min(self.waiting[0].fresh, self.chunk))

    def _candidates(self) -> list[Sequence]:
        """The oldest; before it, after one chunk of several, the oldest prompt of a single chunk."""
        if self.chunked not in self.waiting:
            return [self.waiting[0]]
        short = (s for s in self.waiting if s.fresh <= self.chunk and s is not self.chunked)
        return [*islice(short, 1), self.waiting[0]]

    def _provide(self, sequence: Sequence) -> bool:
        """Pages for all its positions; False (and it holds none) where there are too few."""
        if not sequence.table:
            self.pages.share(sequence)
        if self.pages.grow(sequence, len(sequence.ids)):
            return True
        self.pages.release(sequence)  # pages that wait would keep the running ones from finishing
        return False

    def _decode(self) -> Decode | None:
        chosen: list[Sequence] = []
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # preempted for an older one
            while not self.pages.grow(sequence, len(sequence.ids)):
                if self._take_back():
                    continue
                newest = self.running.pop()
                self._preempt(newest)
                if newest is sequence:
                    break
            else:
                chosen.append(sequence)
        return Decode(chosen) if chosen else None

    def _take_back(self) -> bool:
        """The pages of the newest that waits with some, half of its prompt computed; False where none does."""
        holding = [sequence for sequence in self.waiting if sequence.table]
        if holding:
            self.pages.release(holding[-1])
        return bool(holding)

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.pages.release(sequence)
        self.waiting.appendleft(sequence)
