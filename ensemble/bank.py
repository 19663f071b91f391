"""Normal patch features and the few-shot map over them: 1 - mean over stages of the largest cosine (AnomalyGPT's formula).

Calibration, without a threshold set by hand: every normal picture is scored against the others (leave one out); few
pictures are joined by shifted, turned, noisy and mirrored copies of themselves. With mean m and deviation s of these n scores,
0.5 lies where a further normal picture stays below with 92 % probability (the one-sided prediction limit of a normal
distribution, m + t s sqrt(1 + 1/n); Hahn, "Statistical intervals for a normal population", 1970), and the curve around it is
logistic. Copies say little about how one piece differs from the next: s is then at least a quarter of m.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CAPACITY = 2400  # patches; beyond it those that lie farthest apart
CANDIDATES = 120_000  # of which they are chosen, at random beyond it
LEFT_OUT = 64  # at most so many pictures are scored for the calibration
SMALL = 4  # below so many pictures their changed copies join the calibration
_TOP_SHARE = 0.01
_Z = 1.4  # 92 %, one-sided: on solar cells and drawn products of the training the best balance (docs/experts.md)
_LEAST_SPREAD, _SPREAD_OF_FEW = 0.05, 0.25  # of the mean
_LEAST_WIDTH = 0.15  # of the center: the map then tells patches apart that are all far from an anomaly
_PROJECTED = 32
_CHUNK = 4096


@dataclass(frozen=True)
class Calibration:
    """Raw score -> 0..1 with the decision at 0.5. `samples`: how many scores of normal pictures it stands on."""

    center: float
    width: float
    samples: int

    def __call__(self, raw: np.ndarray | float) -> np.ndarray:
        return 1 / (1 + np.exp(-np.clip((np.asarray(raw, np.float64) - self.center) / self.width, -30, 30)))


@dataclass(frozen=True)
class Bank:
    """features float32 [N, D] (each stage's part of unit length), owner int32 [N] (which picture), stages' channels."""

    features: np.ndarray
    owner: np.ndarray
    channels: tuple[int, ...]
    images: int
    calibration: Calibration

    def joined(self, other: Bank) -> Bank:
        """Both banks; the calibration of the one that stands on more pictures."""
        best = max(self, other, key=lambda bank: bank.images).calibration
        features, owner = np.concatenate([self.features, other.features]), np.concatenate([self.owner, other.owner + self.images])
        return Bank(features, owner, self.channels, self.images + other.images, best)


def channels_of(dims: Mapping[str, object]) -> tuple[int, ...]:
    return tuple(int(stage[0]) for stage in dims["stages"])  # type: ignore[index,attr-defined]


def raw_map(patches: np.ndarray, features: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """float32 [P], 0 (normal) to 2. Exact, in chunks.

    Args:
        patches: float32 [P, D]; features: float32 [N, D].
    """
    total, start = np.zeros(len(patches), np.float32), 0
    for width in channels:
        query, keys = np.ascontiguousarray(patches[:, start : start + width]), features[:, start : start + width]
        best = np.full(len(patches), -1, np.float32)
        for row in range(0, len(keys), _CHUNK):
            np.maximum(best, (query @ keys[row : row + _CHUNK].T).max(axis=1), out=best)
        total += best
        start += width
    return 1 - total / len(channels)


def raw_score(values: np.ndarray) -> float:
    """The mean of the highest 1 % of a map."""
    count = max(round(len(values) * _TOP_SHARE), 1)
    return float(np.partition(values, -count)[-count:].mean())


def build(
    pictures: Sequence[np.ndarray],
    channels: Sequence[int],
    changed: Sequence[Sequence[np.ndarray]] = (),
    more: Sequence[Sequence[np.ndarray]] = (),
) -> Bank:
    """A bank of the patches float32 [P, D] of each normal picture.

    Args:
        changed: for each picture, the patches of its changed copies (needed below SMALL pictures).
        more: for each picture, the patches of copies that belong into the bank beside it.
    """
    whole = [np.concatenate([own, *copies]) for own, copies in zip(pictures, more, strict=True)] if more else list(pictures)
    owner = np.repeat(np.arange(len(pictures), dtype=np.int32), [len(p) for p in whole])
    every, chosen = np.concatenate(whole), np.arange(len(owner))
    if len(owner) > CAPACITY:
        chosen = np.sort(np.random.default_rng(0).permutation(len(owner))[:CANDIDATES])
        chosen = chosen[coreset(every[chosen], CAPACITY)]
    features, owner = every[chosen].astype(np.float32), owner[chosen]
    return Bank(features, owner, tuple(channels), len(pictures), calibrate(pictures, features, owner, channels, changed))


def calibrate(
    pictures: Sequence[np.ndarray],
    features: np.ndarray,
    owner: np.ndarray,
    channels: Sequence[int],
    changed: Sequence[Sequence[np.ndarray]],
) -> Calibration:
    """See the module's text."""
    picked = np.unique(np.linspace(0, len(pictures) - 1, min(len(pictures), LEFT_OUT)).round().astype(int))
    scores = [raw_score(raw_map(pictures[i], features[owner != i], channels)) for i in picked] if len(pictures) > 1 else []
    scores += [raw_score(raw_map(patches, features, channels)) for copies in changed for patches in copies]
    if not scores:
        raise ValueError("a single picture needs changed copies")
    count, mean = len(scores), float(np.mean(scores))
    least = _LEAST_SPREAD if len(pictures) >= SMALL else _SPREAD_OF_FEW
    deviation = max(float(np.std(scores, ddof=1)) if count > 1 else 0.0, least * mean, 1e-3)
    student = _Z * (1 + (_Z**2 + 1) / (4 * max(count - 1, 1)))  # Cornish-Fisher: close enough from 3 samples on
    center = mean + student * deviation * math.sqrt(1 + 1 / count)
    return Calibration(center, max(deviation, _LEAST_WIDTH * center), count)


def coreset(features: np.ndarray, count: int) -> np.ndarray:
    """Indices int64 [count], ascending, of rows that lie far apart: each next one is farthest from all before it (greedy k-center, as
    PatchCore thins its memory, arXiv 2106.08265), seen through a random projection to a few dimensions."""
    rng = np.random.default_rng(0)
    points = features @ (rng.standard_normal((features.shape[1], _PROJECTED)) / math.sqrt(_PROJECTED)).astype(np.float32)
    lengths = np.square(points).sum(axis=1)
    chosen = np.empty(count, np.int64)
    distance, at = np.full(len(points), np.inf, np.float32), int(rng.integers(len(points)))
    for step in range(count):
        chosen[step] = at
        np.minimum(distance, lengths - 2 * (points @ points[at]) + lengths[at], out=distance)
        at = int(distance.argmax())
    return np.sort(chosen)
