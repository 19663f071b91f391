"""Questions about a user's product and AnomalyGPT's answers to them (arXiv 2308.15366)."""

from __future__ import annotations

import numpy as np
from sightline_ensemble.contract import LOCATIONS
from sightline_ensemble.hint import sentence
from sightline_ensemble.regions import components, location
from sightline_training.wording import ANY, CALLERS_HINTS, article

MOST_PLACES = 3
QUESTIONS = tuple(text for text in ANY if "cell" not in text)
HINTS = tuple(text for text in CALLERS_HINTS if "cell" not in text)


def places(mask: np.ndarray) -> list[str]:
    """Words for the connected regions of a bool [h, w] mask, largest first, each once; specks beside larger ones do not count."""
    _, stats, centroids = components(mask.astype(np.uint8))
    areas = stats[:, 4]
    order = [k for k in np.argsort(-areas, kind="stable") if areas[k] >= 0.1 * areas.max()]
    words = [location(*centroids[k], mask.shape[1], mask.shape[0]) for k in order]
    return list(dict.fromkeys(words))[:MOST_PLACES]


def answer(where: list[str]) -> str:
    """The sentence after `[SEG]` ("Yes, ...") or instead of it."""
    if not where:
        return "No, there is no anomaly in the image."
    if len(where) == 1:
        return f"Yes, there is an anomaly in the image, at the {where[0]} of the image."
    listed = f"{', '.join(where[:-1])} and {where[-1]}"
    return f"Yes, there are {len(where)} anomalies in the image, they are at the {listed} of the image."


def description(product: str) -> str:
    """AnomalyGPT's sentence about the class, shortened."""
    name = product.replace("_", " ").replace("-", " ")
    return f"This is a photo of {article(name)}, which should be without any damage, flaw or defect."


def question(rng: np.random.Generator, product: str, where: list[str], defective: bool) -> str:
    """What LISA is asked while it learns: now and then with the product's description, and with an expert that is mostly right."""
    words = [description(product)] if rng.random() < 0.4 else []
    if rng.random() < 0.3:
        score = float(np.clip(rng.normal(0.35 + 0.3 * defective, 0.22), 0.01, 0.99))
        words.append(sentence(score, [where[0] if where and rng.random() < 0.8 else str(rng.choice(LOCATIONS))]))
        words += [str(rng.choice(HINTS))] if rng.random() < 0.2 else []
    return " ".join([*words, QUESTIONS[0] if rng.random() < 0.6 else str(rng.choice(QUESTIONS))])
