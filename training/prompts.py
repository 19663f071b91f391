"""Token ids of questions and answers for training, made by the very code that serves."""

from __future__ import annotations

from gguf import GGUFReader
from sightline_ensemble.lisa.prompt import Prompter as Served
from sightline_export.smollm2 import gguf_path, read_config, tokenizer


class Prompter:
    """The served prompter of an artefact on SmolLM2, plus the answers that follow."""

    def __init__(self) -> None:
        reader = GGUFReader(gguf_path())
        self.config = read_config(reader)
        self.served = Served(self.config, tokenizer(reader))

    def question(self, text: str, pictures: int) -> list[int]:
        """Ids of the whole prompt; -1 where one of `pictures` vectors goes."""
        return self.served.build(text, (), pictures)

    def reply(self, text: str) -> list[int]:
        """Ids of an answer and its end."""
        return [*self.served.text(text), self.config.eos[0]]
