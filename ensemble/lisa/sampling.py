"""Which token comes next: greedy, and the rule of the first token where a checkpoint declares a verdict."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .model import Llama
from .sequence import Sequence


class NotFinite(Exception):
    """The model computed no number: there is no verdict, and no answer may be made up."""


class Sampler:
    """Next tokens from hidden states.

    With a verdict the first token is `[SEG]` or the no word, by the calibrated probability; after the first `[SEG]` stands
    the yes word, and `[SEG]` is banned everywhere else: mask, score and the yes or no of the text cannot contradict.
    """

    def __init__(self, model: Llama) -> None:
        self.model, self.verdict, self.seg = model, model.config.verdict, model.config.seg
        if self.verdict:
            assert self.verdict.seg == self.seg, "the verdict's seg is not the token [SEG]"
            self.contrast = model.head_row(self.seg) - model.head_row(self.verdict.no)

    def next(self, sequences: list[Sequence], hidden: Tensor) -> list[int]:
        """hidden [N, H] at the last position of each -> token ids; sets `probability` where a first token is chosen.

        Raises NotFinite where a sequence's logits are no numbers.
        """
        tokens = [self._ruled(sequence, row) for sequence, row in zip(sequences, hidden, strict=True)]
        free = [i for i, token in enumerate(tokens) if token is None]
        if free:
            for i, token in zip(free, self._greedy(hidden[free] if len(free) < len(tokens) else hidden), strict=True):
                tokens[i] = token
        return tokens  # type: ignore[return-value]

    def _ruled(self, sequence: Sequence, hidden: Tensor) -> int | None:
        if not self.verdict:
            return None
        answer = sequence.answer
        if not answer:
            sequence.probability = self.probability(hidden)
            return self.verdict.seg if sequence.probability >= 0.5 else self.verdict.no
        return self.verdict.yes if answer == [self.verdict.seg] else None

    def probability(self, hidden: Tensor) -> float:
        """Of opening with `[SEG]`, from hidden [H]."""
        logit = float(hidden.float() @ self.contrast) * self.verdict.scale + self.verdict.bias
        if not math.isfinite(logit):
            raise NotFinite
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0

    def _greedy(self, hidden: Tensor) -> list[int]:
        logits = self.model.logits(hidden)
        if self.verdict:
            logits[:, self.seg] = -torch.inf
        best = logits.max(-1)
        if not bool(best.values.isfinite().all()):
            raise NotFinite
        return best.indices.tolist()
