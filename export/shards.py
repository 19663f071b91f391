"""The weights of a released checkpoint folder, one tensor at a time: pickled or safetensors, one file or sharded with an index.

Pickles are read with weights_only, so nothing in them runs. Files are mapped where their format allows, and at most two are
open at a time: walking through a checkpoint in its own order takes little more memory than what is asked for.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checkpoint import CheckpointError, unpickled

SINGLE = ("model.safetensors", "pytorch_model.bin")
OPEN = 2  # a layer may lie across the border of two shards

Read = Callable[[str], Tensor]


class Shards:
    """Tensors of a folder by name. `files` says which file each lies in."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder, self.files = folder, files
        self.open: OrderedDict[str, Read] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def names(self, prefix: str = "") -> list[str]:
        """In the checkpoint's order."""
        return [name for name in self.files if name.startswith(prefix)]

    def tensor(self, name: str, shape: Iterable[int | None] | None = None) -> Tensor:
        """The tensor in its stored type, mapped where the format allows.

        Args:
            shape: what it must be; None for a side that may be anything.
        Raises:
            CheckpointError: missing, damaged, of another shape, no floats, or not finite.
        """
        if name not in self.files:
            raise CheckpointError(f"{self.folder.name}: tensor '{name}' is missing; expected a complete checkpoint")
        file = self.files[name]
        try:
            value = self._reader(file)(name)
        except (KeyError, SafetensorError):
            raise CheckpointError(f"{file}: tensor '{name}' is missing, though the index says it is there") from None
        wanted = list(value.shape if shape is None else shape)
        if value.dim() != len(wanted) or any(w is not None and w != s for w, s in zip(wanted, value.shape, strict=True)):
            text = ", ".join("any" if w is None else str(w) for w in wanted)
            raise CheckpointError(f"{file}: tensor '{name}' has the shape {list(value.shape)}, expected [{text}]")
        if not value.is_floating_point():
            raise CheckpointError(f"{file}: tensor '{name}' holds {value.dtype}, expected floating-point numbers")
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{file}: tensor '{name}' holds NaN or infinity")
        return value

    def _reader(self, file: str) -> Read:
        if file not in self.open:
            while len(self.open) >= OPEN:
                self.open.popitem(last=False)
            self.open[file] = open_file(self.folder / file)[1]
        self.open.move_to_end(file)
        return self.open[file]


def open_shards(folder: Path) -> Shards:
    """The weights of a folder; CheckpointError where there are none, or where a file of the index is missing."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder.name}: no such folder; expected a checkpoint as released")
    for single in SINGLE:
        if (index := folder / f"{single}.index.json").is_file():
            files = _read_index(index)
            for file in sorted(set(files.values())):
                if Path(file).name != file or not (folder / file).is_file():
                    raise CheckpointError(
                        f"{file}: missing; {index.name} says that '{next(n for n in files if files[n] == file)}' is in it"
                    )
            return Shards(folder, files)
        if (folder / single).is_file():
            names, read = open_file(folder / single)
            shards = Shards(folder, dict.fromkeys(names, single))
            shards.open[single] = read
            return shards
    raise CheckpointError(f"{folder.name}: no weights; expected {' or '.join(SINGLE)}, or shards with an index")


def open_file(path: Path) -> tuple[list[str], Read]:
    """Names, and a function from name to tensor (KeyError, SafetensorError where there is no such)."""
    if path.suffix == ".safetensors":
        try:
            mapped = safe_open(str(path), "pt")
        except (SafetensorError, OSError):
            raise CheckpointError(f"{path.name}: truncated or no safetensors file") from None
        return list(mapped.keys()), mapped.get_tensor
    state = unpickled(path, "the weights of a released checkpoint")
    return list(state), state.__getitem__


def _read_index(path: Path) -> dict[str, str]:
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise CheckpointError(f"{path.name}: no weight_map; expected the index of a sharded checkpoint")
    return files


def read_json(path: Path) -> dict[str, object]:
    """A JSON object; CheckpointError where it is missing or something else."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent.name}/{path.name}: no such file; expected a checkpoint as released") from None
    except (OSError, ValueError):
        raise CheckpointError(f"{path.parent.name}/{path.name}: no JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name}: no JSON object")
    return content
