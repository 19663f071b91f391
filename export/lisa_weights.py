"""LISA's language model as the engine stores it (`ensemble/lisa/int4.py`), streamed out of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from sightline_ensemble.lisa.config import LisaConfig
from torch import Tensor

from .lisa_checkpoint import LisaCheckpoint, linears, others, stacked
from .quantise import int4_forms, int8, int8_forms, packable
from .stream_file import Form, Group

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """How the linear layers are stored. `made`: of 4 bits, the folder of what `bits.py` has made, a file a layer."""

    bits: int
    group: int = 0
    made: Path | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of everything else of Llama, and of the activations."""
        return torch.float32 if self.bits == 32 else torch.bfloat16


def groups(lisa: LisaCheckpoint, stored: Stored) -> Iterator[Group]:
    """All tensors of model.safetensors. What LISA adds to Llama stays float32 as in the checkpoint: it is small and precise."""
    dtype = stored.dtype
    yield from vocabulary(lisa, dtype)
    for name, inputs, parts in linears(lisa.config):
        yield linear(lisa, stored, name, inputs, parts)
    for ours, theirs, shape in others(lisa.config):
        kept = torch.float32 if ours.startswith(("projector", "text_hidden_fcs")) else dtype
        yield one(ours, (kept, shape), lambda theirs=theirs, shape=shape: lisa.shards.tensor(theirs, shape))


def linear(lisa: LisaCheckpoint, stored: Stored, name: str, inputs: int, parts: list[tuple[str, int]]) -> Group:
    """A large linear layer in its stored form."""
    outputs = sum(n for _, n in parts)
    if stored.bits == 4 and packable(outputs):
        assert stored.made is not None, "4 bits are made before they are written"
        file = stored.made / f"{name}.safetensors"
        return Group(named(name, int4_forms(outputs, inputs, stored.group)), lambda: load_file(file))
    if stored.bits == 8:
        return Group(named(name, int8_forms(outputs, inputs)), lambda: named(name, int8(stacked(lisa.shards, parts, inputs))))
    return one(f"{name}.weight", (stored.dtype, (outputs, inputs)), lambda: stacked(lisa.shards, parts, inputs))


def named(name: str, parts: dict[str, T]) -> dict[str, T]:
    return {f"{name}.{key}": value for key, value in parts.items()}


def one(name: str, form: Form, make: Callable[[], Tensor]) -> Group:
    return Group({name: form}, lambda: {name: make().to(form[0])})


def vocabulary(lisa: LisaCheckpoint, dtype: torch.dtype) -> Iterator[Group]:
    """Both tables, parted into the tokenizer's own rows and the added ones."""
    config: LisaConfig = lisa.config
    words, added, width = config.vocab_size, len(config.added), config.hidden_size
    for theirs, table, rows in (
        ("model.embed_tokens.weight", "embed_tokens.weight", "added_embeddings"),
        ("lm_head.weight", "head.weight", "added_head"),
    ):

        def make(theirs: str = theirs, table: str = table, rows: str = rows) -> dict[str, Tensor]:
            value = lisa.shards.tensor(theirs, (words + added, width))
            return {table: value[:words].to(dtype), rows: value[words:].float()}

        yield Group({table: (dtype, (words, width)), rows: (torch.float32, (added, width))}, make)


@dataclass(frozen=True)
class Exact:
    """The checkpoint's own weights, float32, a layer at a time (`streams.Source`)."""

    lisa: LisaCheckpoint

    @property
    def config(self) -> LisaConfig:
        return self.lisa.config

    def ends(self) -> dict[str, Tensor]:
        """Everything outside of the layers."""
        return self._made(lambda name: not name.startswith("layers."))

    def layer(self, index: int) -> dict[str, Tensor]:
        return self._made(lambda name: name.startswith(f"layers.{index}."))

    def _made(self, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
        chosen = [group for group in groups(self.lisa, Stored(32)) if wanted(next(iter(group.forms)))]
        return {name: value for group in chosen for name, value in group.make().items()}
