"""From a question to token ids, and from token ids to text.

Only the artefact's template names special tokens; a caller's text is tokenised without them, so that it can never forge
`[SEG]`, a picture or a change of role.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from tokenizers import Tokenizer

from ..errors import RequestError, invalid
from .config import LisaConfig

IMAGE = -1  # stands for one picture vector
Piece = str | int  # text still to be tokenised, or a token


class Prompter:
    """Builds prompts of one artefact. `tokenizer` knows no special tokens; the template's are looked up by name."""

    def __init__(self, config: LisaConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        names = [*config.template.specials, *config.added]
        self.specials = {name: config.added.get(name, tokenizer.token_to_id(name)) for name in names}
        if unknown := [name for name, token in self.specials.items() if token is None]:
            raise ValueError(f"the tokenizer does not know {unknown}")
        self.split = re.compile("|".join(map(re.escape, self.specials)))
        self.silent = set(config.added.values()) | set(config.eos) | {self.specials[name] for name in config.template.specials}

    def text(self, text: str) -> list[int]:
        """A caller's text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def build(self, question: str, history: tuple[tuple[str, str], ...], pictures: int) -> list[int]:
        """Ids of the prompt, `IMAGE` once for each of `pictures` vectors, in the first turn of the user.

        Raises RequestError INVALID_ARGUMENT where it leaves no room for an answer.
        """
        template, shown = self.config.template, False
        pieces = self._split(template.system)
        for role, content in (*history, ("user", question)):
            if role == "assistant":
                pieces += self._turn(template.assistant, "{answer}", content, opened=self._opened(content))
            else:
                pieces += self._turn(template.user, "{question}", content, 0 if shown else pictures)
                shown = True
        ids = [token for piece in (join(pieces) if template.joined else pieces) for token in self._ids(piece)]
        if len(ids) >= self.config.context:
            raise too_long(history, len(ids), self.config.context)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of an answer, special tokens left out; an unfinished character at the end is U+FFFD."""
        return self.tokenizer.decode([token for token in ids if token not in self.silent], skip_special_tokens=False)

    def _opened(self, answer: str) -> list[Piece]:
        """The `[SEG]` that opened an earlier answer, which its text does not show: then it is what the cache still has."""
        rule = self.config.verdict
        return [rule.seg] if rule and self.text(answer[:16])[:1] == [rule.yes] else []

    def _turn(self, template: str, slot: str, content: str, pictures: int = 0, opened: Sequence[Piece] = ()) -> list[Piece]:
        before, after = template.split(slot)
        before, _, _ = before.partition("{image}")
        pieces = self._split(before)
        if pictures:
            lead, tail = self.config.template.image.split("{image}")
            *tokens, text = self._split(tail)
            pieces += [*self._split(lead), *[IMAGE] * pictures, *tokens]
            content = f"{text}{content}"
        return [*pieces, *opened, content, *self._split(after)]

    def _split(self, text: str) -> list[Piece]:
        """A string of the template as text and the ids of the special tokens it names; text comes last, if only an empty one."""
        pieces, start = [], 0
        for match in self.split.finditer(text):
            pieces += [text[start : match.start()], self.specials[match.group()]]
            start = match.end()
        return [*pieces, text[start:]]

    def _ids(self, piece: Piece) -> list[int]:
        return self.text(piece) if isinstance(piece, str) else [piece]


def join(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring texts as one, without white space beside a special token, as transformers 4.31's slow Llama tokenizer reads
    LISA's prompts; beside a picture it stays."""
    runs = [list(run) for _, run in groupby(pieces, key=lambda piece: isinstance(piece, str))]
    joined: list[Piece] = []
    for run in runs:
        joined += ["".join(run)] if isinstance(run[0], str) else run  # type: ignore[arg-type]
    for i, piece in enumerate(joined):
        if isinstance(piece, str):
            after, before = joined[i - 1] if i else IMAGE, joined[i + 1] if i + 1 < len(joined) else IMAGE
            piece = piece if after == IMAGE else piece.lstrip()
            joined[i] = piece if before == IMAGE else piece.rstrip()
    return joined


def too_long(history: tuple[tuple[str, str], ...], tokens: int, context: int) -> RequestError:
    name = "HISTORY" if history else "PROMPT"
    return invalid(name, f"too long: the prompt has {tokens} tokens, at most {context - 1} are possible")


def speak(whole: str, said: str) -> str:
    """What may be added to `said`: no white space at either end and no half character, so that the pieces add up to the text."""
    return whole.lstrip().rstrip("\ufffd \t\r\n")[len(said) :]
