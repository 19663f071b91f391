"""Questions and answers that the tiny LISA learns, in AnomalyGPT's words for places (arXiv 2308.15366)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sightline_ensemble.contract import DEFAULT_PROMPT, LOCATIONS
from sightline_training.simulate import KINDS

ANY = (
    DEFAULT_PROMPT,
    "Is there any anomaly in the image?",
    "Is there any defect in the object? If yes, describe it and give a segmentation mask.",
    "Is this part good?",
    "Can you segment the defect in this image?",
    "What is wrong with this part? Please output segmentation mask.",
    "Please find the defect and explain what it is.",
    "Describe the damage you see, and where it is.",
    "Is the cell damaged?",
)
OF_KIND = (
    "Is there {a} in the image?",
    "Can you segment the {kind} in this image?",
    "Where is the {kind}? Please respond with segmentation mask.",
)
CALLERS_HINTS = ("The operator saw nothing unusual.", "According to experts, it is a solar cell seen from above.", "Look closely.")
DESCRIPTION = {
    "crack": "a thin dark line runs across the cell",
    "inactive area": "this part of the cell stays dark",
    "finger interruption": "a short dark bar crosses the grid lines",
}


@dataclass(frozen=True)
class Finding:
    """What a picture shows: kinds with their place, largest first; empty: nothing."""

    kinds: tuple[tuple[str, str], ...]

    def only(self, kind: str) -> Finding:
        return Finding(tuple(found for found in self.kinds if found[0] == kind))


def article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def place(mask: np.ndarray) -> str:
    """The third by third in which the centroid of a bool mask [M, M] lies."""
    rows, columns = np.nonzero(mask)
    row = min(2, int((rows.mean() + 0.5) * 3 / mask.shape[0]))
    column = min(2, int((columns.mean() + 0.5) * 3 / mask.shape[1]))
    return LOCATIONS[3 * row + column]


def finding(masks: np.ndarray) -> Finding:
    """bool [kinds, M, M] -> what is there."""
    present = sorted((i for i in range(len(KINDS)) if masks[i].any()), key=lambda i: -int(masks[i].sum()))
    return Finding(tuple((KINDS[i], place(masks[i])) for i in present))


def answer(found: Finding, asked: str | None = None) -> str:
    """The sentence after `[SEG]` ("Yes, ...") or instead of it ("No, ...")."""
    if not found.kinds:
        return f"No, there is no {asked or 'anomaly'} in the image."
    places = " and ".join(f"{article(kind)} at the {where}" for kind, where in found.kinds)
    return f"Yes, there is {places} of the image: {DESCRIPTION[found.kinds[0][0]]}."


def question(rng: np.random.Generator, kind: str | None) -> str:
    """The default most often; or one that names a kind."""
    if kind is not None:
        return str(rng.choice(OF_KIND)).format(a=article(kind), kind=kind)
    return DEFAULT_PROMPT if rng.random() < 0.5 else str(rng.choice(ANY))
