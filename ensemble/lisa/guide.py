"""What the server decides of an answer whose checkpoint has a verdict: how it opens, and which places it names.

The verdict is known before the sentence, and so are the masks: the sentence then begins with their yes or no, and what follows
its first "at the" is where they lie. What is wrong there, and how it looks, stays the model's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from .prompt import Prompter
from .sequence import Request, Sequence

_BEFORE, _AFTER = " at the", " of the image"
_MOST = 3  # places in one sentence
_LOOKS = 256  # kept


def spoken(places: tuple[str, ...]) -> str:
    """Places as a sentence lists them, largest defects first, at most three: top left, center and right."""
    places = places[:_MOST]
    return f"{', '.join(places[:-1])} and {places[-1]}" if len(places) > 1 else places[0]


class Guide:
    def __init__(self, prompter: Prompter) -> None:
        self.prompter, self.rule, self.before = prompter, prompter.config.verdict, prompter.text(_BEFORE)

    def opening(self, request: Request) -> list[int]:
        """The first tokens of a decided answer; none where the model opens by itself."""
        if self.rule is None or request.verdict is None:
            return []
        return [self.rule.seg, self.rule.yes] if request.verdict else [self.rule.no]

    def silent(self, opening: list[int]) -> int:
        """How many of them nobody reads."""
        return int(self.rule is not None and opening[:1] == [self.rule.seg])

    def next_words(self, sequence: Sequence) -> list[int]:
        """After a token: those that must follow, within the answer's limit; mostly none."""
        places = sequence.request.places
        if not places or sequence.guided or sequence.answer[-len(self.before) :] != self.before:
            return []
        sequence.guided = True
        return self.prompter.text(f" {spoken(places)}{_AFTER}")[: sequence.limit - sequence.counted]


class Looks:
    """First questions answered lately: a later turn of the same dialogue begins with the same look at the same picture."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[bytes, tuple[int, ...]], tuple[float, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, sequence: Sequence) -> bool:
        """Give a sequence the probability and the vector of before; False where it must be computed."""
        with self._lock:
            found = self._kept.get(_key(sequence))
        if found is not None:
            sequence.probability, sequence.segs = found[0], [found[1]]
        return found is not None

    def keep(self, sequence: Sequence) -> None:
        with self._lock:
            self._kept[_key(sequence)] = sequence.probability, sequence.segs[0]
            while len(self._kept) > _LOOKS:
                self._kept.popitem(last=False)


def _key(sequence: Sequence) -> tuple[bytes, tuple[int, ...]]:
    return sequence.digest, tuple(sequence.ids[: sequence.prompt])
