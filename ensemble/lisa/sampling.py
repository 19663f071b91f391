"""Which token comes next: the likeliest or a drawn one, and the rule of the first token where a checkpoint declares a verdict."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..parameters import Sampling
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
            chosen = self._chosen([sequences[i] for i in free], hidden[free] if len(free) < len(tokens) else hidden)
            for i, token in zip(free, chosen, strict=True):
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

    def _chosen(self, sequences: list[Sequence], hidden: Tensor) -> list[int]:
        logits = self.model.logits(hidden)
        if self.verdict:
            logits[:, self.seg] = -torch.inf
        best = logits.max(-1)
        if not bool(best.values.isfinite().all()):
            raise NotFinite
        tokens = best.indices.tolist()
        for i, sequence in enumerate(sequences):
            if sequence.request.sampling.temperature:
                tokens[i] = drawn(logits[i].double().cpu().numpy(), sequence.request.sampling, len(sequence.answer))
        return tokens


def drawn(logits: np.ndarray, sampling: Sampling, index: int) -> int:
    """The answer's token number `index` from float64 logits [V]: a draw of its own, whoever else is in the batch."""
    order = np.argsort(-logits, kind="stable") if sampling.top_p < 1 else np.arange(len(logits))
    with np.errstate(over="ignore"):  # of a temperature near 0
        shares = np.exp((logits[order] - logits.max()) / sampling.temperature).cumsum()
    last = min(int(np.searchsorted(shares, sampling.top_p * shares[-1])), len(shares) - 1)
    chance = np.random.default_rng((sampling.seed, index)).random()
    return int(order[min(int(np.searchsorted(shares, chance * shares[last], side="right")), last)])
