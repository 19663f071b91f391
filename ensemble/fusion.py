"""Several witnesses, one score: LISA's answer, its mask, the picture's own evidence and the few-shot expert.

Where the weights know pictures of this sort, one logistic regression weighs the witnesses (trained by `training/fusion.py`, never on
test pictures). Where they do not (`foreign` above 1) and an expert compared the part with normal ones, the expert decides alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .defects import Frame

TOP_SHARE = 0.005  # of the map: a thin crack covers no more
_BOUND = 12.0  # no witness is surer than e^12 : 1


@dataclass(frozen=True)
class Evidence:
    """Log odds of "defective" from each witness; `expert` None where nothing was compared. `foreign`: above 1, not of a known sort."""

    lisa: float
    mask: float
    picture: float
    foreign: float
    expert: float | None


@dataclass(frozen=True)
class Weights:
    """Of one regression."""

    bias: float
    lisa: float
    mask: float
    picture: float
    expert: float = 0.0

    def probability(self, found: Evidence) -> float:
        terms = (self.lisa, found.lisa), (self.mask, found.mask), (self.picture, found.picture), (self.expert, found.expert or 0.0)
        return sigmoid(self.bias + sum(weight * value for weight, value in terms))


@dataclass(frozen=True)
class Fusion:
    """`alone` without an expert, `joined` with one."""

    alone: Weights
    joined: Weights

    @staticmethod
    def read(content: Mapping[str, Mapping[str, float]] | None) -> Fusion | None:
        """From a manifest; None where the artefacts have no fusion: then LISA's own probability is the score."""
        return None if content is None else Fusion(Weights(**content["alone"]), Weights(**content["joined"]))

    def probability(self, found: Evidence) -> float:
        if found.expert is None:
            return self.alone.probability(found)
        return sigmoid(found.expert) if expert_decides(found) else self.joined.probability(found)


def expert_decides(found: Evidence) -> bool:
    """The weights know nothing of such pictures and an expert does."""
    return found.expert is not None and found.foreign > 1


def mask_logit(low_res: np.ndarray, frame: Frame) -> float:
    """The mean of the highest half percent of a slot's logits float32 [M, M] where a defect may be."""
    side = low_res.shape[0] / max(frame.resized)
    scale = [s * side / o for s, o in zip(frame.resized, frame.original, strict=True)]
    x0, y0, x1, y1 = frame.window
    window = slice(int(y0 * scale[0]), max(math.ceil(y1 * scale[0]), 1)), slice(int(x0 * scale[1]), max(math.ceil(x1 * scale[1]), 1))
    seen = low_res[window]
    if frame.part is not None and (inside := frame.part[window] > 0).any():
        seen = seen[inside]
    flat = np.sort(seen.reshape(-1))
    return float(flat[-max(round(TOP_SHARE * flat.size), 1) :].mean())


def logit(probability: float) -> float:
    """Log odds, bounded."""
    limit = sigmoid(-_BOUND)
    inside = min(max(probability, limit), 1 - limit)
    return math.log(inside / (1 - inside))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-min(max(value, -30.0), 30.0)))
