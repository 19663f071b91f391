"""Token ids of questions and answers, exactly as the engine makes them."""
from __future__ import annotations

from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sightline_export.smollm2 import TEMPLATE, gguf_path


class Prompter:
    def __init__(self) -> None:
        f = GGUFReader(gguf_path()).fields
        tokens = f["tokenizer.ggml.tokens"].contents()
        merges = [tuple(m.split(" ", 1)) for m in f["tokenizer.ggml.merges"].contents()]
        self.vocab = {t: i for i, t in enumerate(tokens)}
        self.tok = Tokenizer(models.BPE(self.vocab, merges))
        self.tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
        self.tok.decoder = decoders.ByteLevel()

    def text(self, s: str) -> list[int]:
        return self.tok.encode(s, add_special_tokens=False).ids

    def special(self, s: str) -> list[int]:
        out, rest = [], s
        while rest:
            hits = [(rest.find(n), n) for n in ("<|im_start|>", "<|im_end|>") if n in rest]
            if not hits:
                return out + self.text(rest)
            i, n = min(hits)
            out += (self.text(rest[:i]) if i else []) + [self.vocab[n]]
            rest = rest[i + len(n):]
        return out

    def question(self, text: str, tokens: int) -> list[int]:
        before, after = TEMPLATE.user.split("{image}{question}")
        return self.special(TEMPLATE.system) + self.special(before) + [-1] * tokens + self.text("\n" + text) + self.special(after)

    def reply(self, text: str) -> list[int]:
        return [*self.text(text), self.vocab["<|im_end|>"]]
