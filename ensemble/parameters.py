"""What a client may ask beside the inputs: request parameters of Triton, which reach every step of an ensemble."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from .dialogue import LAYOUTS
from .errors import invalid

AUGMENT = ("none", "flips", "rotations")


@dataclass(frozen=True)
class Sampling:
    """How an answer's tokens are chosen.

    Args:
        temperature: 0: the likeliest; above: drawn from the softmax of the logits divided by it.
        top_p: drawn from the likeliest tokens that together have at least this probability; in (0, 1].
        seed: the same seed, the same draws; 0 or above.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """RequestError INVALID_ARGUMENT naming the parameter."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise invalid("temperature", f"{self.temperature}, expected a finite number of 0 or above")
        if not 0 < self.top_p <= 1:
            raise invalid("top_p", f"{self.top_p}, expected a number above 0, at most 1")
        if self.seed < 0:
            raise invalid("seed", f"{self.seed}, expected a whole number of 0 or above")

    @staticmethod
    def read(parameters: str) -> Sampling:
        """From a request's parameters as Triton's Python backend gives them, JSON; others than ours are not looked at.

        Numbers may be written as text, for a model that calls another can hand on no fractions (tritonserver 2.51).
        """
        given = json.loads(parameters or "{}")
        return Sampling(**{each.name: _number(given[each.name], each.name) for each in fields(Sampling) if each.name in given})

    @property
    def parameters(self) -> dict[str, str]:
        """What to hand on to another model: nothing where nothing was asked."""
        return {} if self == Sampling() else {each.name: repr(getattr(self, each.name)) for each in fields(Sampling)}


@dataclass(frozen=True)
class Options:
    """How LISA is asked, and what belongs to the normal pictures.

    Args:
        prompt_layout: one of AnomalyLISA's, `dialogue.py`.
        augment: "none", or copies of each normal picture that are normal too: "flips" or "rotations" (AnomalyGPT's).
    """

    prompt_layout: str = LAYOUTS[0]
    augment: str = AUGMENT[0]

    @staticmethod
    def read(parameters: str) -> Options:
        """As Sampling.read; RequestError INVALID_ARGUMENT naming the parameter."""
        given = json.loads(parameters or "{}")
        for name, known in (("prompt_layout", LAYOUTS), ("augment", AUGMENT)):
            if given.get(name, known[0]) not in known:
                raise invalid(name, f"{str(given[name])[:40]!r}, expected one of {', '.join(known)}")
        return Options(**{each.name: given[each.name] for each in fields(Options) if each.name in given})

    @property
    def parameters(self) -> dict[str, str]:
        """What to hand on to another model: nothing where nothing was asked."""
        return {key: value for key, value in asdict(self).items() if value != getattr(Options, key)}


def _number(value: object, name: str) -> float | int:
    whole = name == "seed"
    try:
        if isinstance(value, bool) or (whole and isinstance(value, float)):
            raise ValueError
        return int(value) if whole else float(value)  # type: ignore[call-overload, arg-type]
    except (TypeError, ValueError, OverflowError):
        raise invalid(name, f"{str(value)[:40]!r}, expected a {'whole ' if whole else ''}number") from None
