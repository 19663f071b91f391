"""Fewer bits for a language model: every way that is possible is measured, and the best is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from sightline_ensemble.lisa.int4 import Tensors
from torch import Tensor

from . import figures
from .figures import Figures
from .quantise import METHODS, int4, int8, packable
from .samples import Judge
from .streams import LINEARS, Form, LayerError, Source, run


@dataclass(frozen=True)
class Choice:
    """The form that was taken and what was measured. `method`: how its 4-bit codes were found, empty otherwise."""

    form: str
    method: str
    found: dict[str, Figures]
    errors: list[LayerError]


def forms(bits: int, group: int, work: Path) -> list[Form]:
    """What is measured: 16 bits always, 8 bits and every 4-bit method where fewer are wanted, the latter kept below `work`."""
    made = [sixteen()]
    if bits <= 8:
        made.append(eight())
    if bits <= 4:
        made += [four(method, group, lambda name, stored, method=method: _keep(work / method, name, stored)) for method in METHODS]
    return made


def sixteen() -> Form:
    return Form("16 bits", torch.bfloat16, lambda name, weight, moments: {"weight": weight.bfloat16()})


def eight() -> Form:
    return Form("8 bits by row", torch.bfloat16, lambda name, weight, moments: int8(weight))


def four(method: str, group: int, keep: Callable[[str, Tensors], None] = lambda name, stored: None) -> Form:
    """What the kernel does not take stays 16-bit."""

    def convert(name: str, weight: Tensor, moments: Tensor) -> Tensors:
        return int4(weight, group, method, moments) if packable(len(weight)) else {"weight": weight.bfloat16()}

    return Form(label(method, group), torch.bfloat16, convert, keep=keep)


def label(method: str, group: int) -> str:
    return f"4 bits in groups of {group}, {method}"


def _keep(folder: Path, name: str, stored: Tensors) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(stored), folder / f"{name}.safetensors")


def choose(source: Source, judge: Judge, bits: int, group: int, work: Path, tick: Callable[[int], None]) -> Choice:
    """Measure; of several 4-bit methods that of the smallest loss is taken, the plainest of equals."""
    done = run(source, forms(bits, group, work), judge.calibration, judge.held_out, tick)
    found = figures.measure(done, judge.masks)
    if bits > 4:
        return Choice(list(done.streams)[-1], "", found, done.errors)
    method = min(METHODS, key=lambda method: found[label(method, group)].loss)
    return Choice(label(method, group), method, found, done.errors)


# --- what was measured --------------------------------------------------------------------------------------------------
def show(console: Console, title: str, choice: Choice) -> None:
    console.print(figures.table(title, choice.found, choice.form))
    console.print(layer_table(choice))


def layer_table(choice: Choice) -> Table:
    """Relative error of each linear layer's outputs on held-out inputs, in the form that was taken."""
    shown = Table("layer", *LINEARS, title=f"output error by layer: {choice.form}")
    by_name = {error.name: error.output for error in choice.errors if error.form == choice.form}
    for i in range(len(by_name) // len(LINEARS)):
        shown.add_row(str(i), *(f"{by_name[f'layers.{i}.{part}']:.4f}" for part in LINEARS))
    return shown
