"""From a question to token ids, and from token ids to text.

Only the artefact's template names special tokens; a caller's text is tokenised without them, so that it can never forge
`[SEG]`, a picture or a change of role.
"""

from __future__ import annotations

import json
import re

from tokenizers import Tokenizer

from ..errors import invalid
from .config import LisaConfig

IMAGE = -1  # stands for one picture vector
ROLES = ("user", "assistant")


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
        ids = self._template(template.system)
        for role, content in (*history, ("user", question)):
            if role == "assistant":
                ids += self._turn(template.assistant, "{answer}", content)
            else:
                ids += self._turn(template.user, "{question}", content, 0 if shown else pictures)
                shown = True
        if len(ids) >= self.config.context:
            name = "HISTORY" if history else "PROMPT"
            raise invalid(name, f"too long: the prompt has {len(ids)} tokens, at most {self.config.context - 1} are possible")
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of an answer, special tokens left out; an unfinished character at the end is U+FFFD."""
        return self.tokenizer.decode([token for token in ids if token not in self.silent], skip_special_tokens=False)

    def _turn(self, template: str, slot: str, content: str, pictures: int = 0) -> list[int]:
        before, after = template.split(slot)
        before, _, _ = before.partition("{image}")
        ids = self._template(before)
        if pictures:
            lead, tail = self.config.template.image.split("{image}")
            ids += self._template(lead) + [IMAGE] * pictures
            content = tail + content
        return ids + self.text(content) + self._template(after)

    def _template(self, text: str) -> list[int]:
        ids, start = [], 0
        for match in self.split.finditer(text):
            ids += self.text(text[start : match.start()]) + [self.specials[match.group()]]
            start = match.end()
        return ids + self.text(text[start:])


def speak(whole: str, said: str) -> str:
    """What may be added to `said`: no white space at either end and no half character, so that the pieces add up to the text."""
    return whole.lstrip().rstrip("\ufffd \t\r\n")[len(said) :]


def read_history(text: str | None) -> tuple[tuple[str, str], ...]:
    """HISTORY, a JSON list of turns -> (role, text) pairs; RequestError INVALID_ARGUMENT where it is something else."""
    expected = 'expected a JSON list of {"role": "user" | "assistant", "content": text}'
    try:
        turns = json.loads(text) if text else []
    except ValueError:
        raise invalid("HISTORY", expected) from None
    if not isinstance(turns, list):
        raise invalid("HISTORY", expected)
    pairs = []
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise invalid("HISTORY", expected)
        pairs.append((turn["role"], turn["content"]))
    return tuple(pairs)
