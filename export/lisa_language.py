"""The artefact of `lisa_engine` from a released checkpoint: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .checkpoint import CheckpointError
from .lisa_checkpoint import LisaCheckpoint, unknown
from .lisa_weights import DTYPES, groups
from .stream_file import write_safetensors

FILES = ("config.json", "model.safetensors", "tokenizer.json")


def write_language(lisa: LisaCheckpoint, folder: Path, bits: int, tick: Callable[[str], None] = lambda name: None) -> None:
    """Write the three files into an existing folder; CheckpointError where a tensor is missing, damaged or unknown."""
    if foreign := unknown(lisa):
        raise CheckpointError(f"{lisa.shards.files[foreign[0]]}: unknown tensor '{foreign[0]}'; expected a LISA as released")
    write_safetensors(folder / "model.safetensors", groups(lisa, bits), tick)
    lisa.config.with_(dtype=str(DTYPES[bits]).removeprefix("torch.")).write(folder / "config.json")
    lisa.tokenizer.save(str(folder / "tokenizer.json"))
