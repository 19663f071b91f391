"""Every turn of a dialogue about one picture, in AnomalyLISA's three layouts.

v0, the default: the expert's words and the question are one turn. v1: the experts have a turn of their own before the question, where
there are any. v2: they always have one. The experts speak once, before the first question, so that a later question finds the same
beginning (whose keys and values the engine still has) and the verdict stays that of the first question.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

LAYOUTS = ("v0", "v1", "v2")
SILENT = "No expert has spoken about this image."  # v2 without one

Turn = tuple[str, str]  # role ("user" or "assistant"), text


@dataclass(frozen=True)
class Dialogue:
    """`turns`, oldest first; the last is this turn's question. The first `first` of them end with the first question."""

    turns: tuple[Turn, ...]
    first: int
    asked: str  # for the report: what the experts say, and the question

    @property
    def opening(self) -> tuple[Turn, ...]:
        """All up to the first question: what the verdict stands on."""
        return self.turns[: self.first]

    def write(self) -> str:
        return json.dumps({"turns": self.turns, "first": self.first, "asked": self.asked}, ensure_ascii=False)

    @staticmethod
    def read(text: str) -> Dialogue:
        content = json.loads(text)
        return Dialogue(tuple((role, said) for role, said in content["turns"]), content["first"], content["asked"])


def compose(question: str, experts: Sequence[str], history: Sequence[Turn], layout: str = "v0") -> Dialogue:
    """The dialogue that ends with `question`.

    Args:
        experts: sentences for LISA: the product's description, the hint, the caller's expert.
        history: earlier turns as the client kept them; with or without the experts' words in its first question.
    """
    turns, words = [*history, ("user", question)], " ".join(experts)
    at = next(i for i, (role, _) in enumerate(turns) if role == "user")
    if layout == "v2" and not words:
        words = SILENT
    if layout == "v0":
        said = turns[at][1]
        turns[at] = ("user", said if not words or said.startswith(words) else f"{words} {said}")
        asked = f"{words} {question}" if words else question
    else:
        turns[at:at] = [("user", words)] if words else []
        asked = f"{words}\n{question}" if words else question
        at += bool(words)
    return Dialogue(tuple(turns), at + 1, asked)
