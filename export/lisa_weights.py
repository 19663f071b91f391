"""LISA's language model as the engine stores it (`ensemble/lisa/int4.py`), streamed out of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from sightline_ensemble.lisa.config import LisaConfig
from torch import Tensor

from .lisa_checkpoint import LisaCheckpoint, linears, others, stacked
from .stream_file import Form, Group

DTYPES = {32: torch.float32, 16: torch.bfloat16}


def groups(lisa: LisaCheckpoint, bits: int) -> Iterator[Group]:
    """All tensors of model.safetensors. What LISA adds to Llama stays float32 as in the checkpoint: it is small and precise."""
    dtype = DTYPES[bits]
    yield from vocabulary(lisa, dtype)
    for name, inputs, parts in linears(lisa.config):
        outputs = sum(n for _, n in parts)
        yield one(f"{name}.weight", (dtype, (outputs, inputs)), lambda parts=parts, inputs=inputs: stacked(lisa.shards, parts, inputs))
    for ours, theirs, shape in others(lisa.config):
        kept = torch.float32 if ours.startswith(("projector", "text_hidden_fcs")) else dtype
        yield one(ours, (kept, shape), lambda theirs=theirs, shape=shape: lisa.shards.tensor(theirs, shape))


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
