"""Writes a safetensors file tensor by tensor: what lies in it is known beforehand, and only one group is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip
Form = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """Tensors that are made together: their types and shapes by name, and how."""

    forms: dict[str, Form]
    make: Callable[[], dict[str, Tensor]]


def write_safetensors(path: Path, groups: Iterable[Group], tick: Callable[[str], None] = lambda name: None) -> None:
    """Write the groups in order; `tick` hears the first name of each before it is made.

    Raises:
        Whatever `make` raises: the file is then incomplete, and for the caller to remove.
    """
    groups, header, end = list(groups), {}, 0
    for name, (dtype, shape) in ((name, form) for group in groups for name, form in group.forms.items()):
        start, end = end, end + dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for group in groups:
            tick(next(iter(group.forms)))
            made = group.make()
            for name, (dtype, shape) in group.forms.items():
                value = made[name]
                assert (value.dtype, tuple(value.shape)) == (dtype, tuple(shape)), f"{name} is {value.dtype} {list(value.shape)}"
                file.write(value.contiguous().flatten().view(torch.uint8).numpy())
