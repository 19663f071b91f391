"""Golden checkpoint A (tests/data/golden_a/README.md): its folders as released, and what the reference computed from them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DATA = Path(__file__).parents[1] / "data" / "golden_a"
CLIP = DATA / "clip"
CASES = range(4)
State = dict[str, Tensor]


@cache
def expected() -> Mapping[str, np.ndarray]:
    with np.load(DATA / "expected.npz") as file:
        return {name: file[name] for name in file.files}


def of(case: int, name: str) -> np.ndarray:
    return expected()[f"case{case}.{name}"]


def picture(case: int) -> Image.Image:
    return Image.open(DATA / "images" / str(of(case, "image"))).convert("RGB")


def mask(case: int) -> np.ndarray:
    """uint8 [n, H, W]."""
    shape = (len(of(case, "seg_embeddings")), *of(case, "original_size"))
    return np.unpackbits(of(case, "masks_bits"), count=int(np.prod(shape))).reshape(shape)


@cache
def shards() -> dict[str, State]:
    """The checkpoint's tensors by file, in their order: those that are stored, and those that were drawn, drawn again."""
    spec = json.loads((DATA / "weights.json").read_text())
    drawn = _drawn(spec["seed"], spec["drawn"])
    with np.load(DATA / "weights.npz") as file:
        stored = {name: torch.from_numpy(file[name]) for name in file.files}
    stored = {name: value.view(torch.bfloat16) if value.dtype == torch.int16 else value for name, value in stored.items()}
    return {file: {name: drawn[name] if name in drawn else stored[name] for name in names} for file, names in spec["shards"].items()}


def state() -> State:
    return {name: value for part in shards().values() for name, value in part.items()}


def _drawn(seed: int, how: dict[str, tuple[int, list[int], float, float, float]]) -> State:
    """Normal numbers out of one stream of torch's generator: (start in the stream, shape, factor, divisor, mean) by name."""
    generator, at, made = torch.Generator().manual_seed(seed), 0, {}
    for name, (start, shape, factor, divisor, mean) in sorted(how.items(), key=lambda item: item[1][0]):
        torch.rand(start - at, generator=generator)
        values = torch.randn(shape, generator=generator)
        made[name], at = values / divisor if divisor != 1 else values * factor + mean, start + values.numel()
    return made


Change = Callable[[dict[str, State]], None]


def write_checkpoint(folder: Path, change: Change | None = None) -> Path:
    """The checkpoint's folder as its makers release it, after a change to its shards where one is given."""
    shutil.copytree(DATA / "checkpoint", folder)
    made = {file: dict(part) for file, part in shards().items()}
    index = {name: file for file, part in made.items() for name in part}
    if change:
        change(made)
        index |= {name: file for file, part in made.items() for name in part}  # what is gone stays in the index
    for file, part in made.items():
        torch.save({name: value.clone() for name, value in part.items()}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@cache
def checkpoint() -> Path:
    """The unchanged checkpoint, written once."""
    _kept.append(kept := tempfile.TemporaryDirectory(prefix="golden-a-"))
    return write_checkpoint(Path(kept.name) / "checkpoint")


_kept: list[tempfile.TemporaryDirectory] = []  # removed when the tests end
