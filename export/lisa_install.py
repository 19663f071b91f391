"""Where an export's files lie while they are made, and how they get into their place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sightline_ensemble.artefacts import write_manifest

LANGUAGE = "lisa_engine"


class Tick(Protocol):
    """Told what is being done, and how much of how much."""

    def __call__(self, what: str, done: int | None = None, total: int | None = None) -> None: ...


@dataclass(frozen=True)
class Order:
    """What to export, from where, to where.

    `sam_checkpoint`: the released SAM, to share its encoder. `group`: of weights with one scale, at 4 bits. `pictures`: how many
    fewer bits are chosen and judged by, out of the folder `images` or of installed packages. `csv`: of every layer's errors.
    """

    checkpoint: Path
    clip: Path
    bits: int
    repository: Path
    profile: str
    sam_checkpoint: Path | None = None
    group: int = 128
    pictures: int = 16
    images: Path | None = None
    csv: Path | None = None

    def target(self, model: str) -> Path:
        return self.repository / model / "1" / self.profile

    def staging(self, model: str) -> Path:
        return self.target(model).with_name(f".{self.profile}.staging")


@dataclass
class Made:
    """A step's finished files, still beside their place, and what its manifest will say."""

    model: str
    origin: str
    files: list[str]
    precision: str
    dims: dict[str, object]
    parity: dict[str, object] = field(default_factory=dict)


@contextmanager
def staging(order: Order, models: list[str]) -> Iterator[None]:
    """A folder for each step beside its final place (one file system, so that installing is renaming); always removed."""
    folders = [order.staging(model) for model in models]
    try:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # what only we made goes too: these are empty then
                folder.parent.rmdir()
                folder.parents[1].rmdir()


@contextmanager
def progress(console: Console) -> Iterator[Tick]:
    """A line that says what is being done, and a bar over the language model's tensors."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def tick(what: str, done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=what, completed=done or 0, total=total)

        yield tick


def install(order: Order, step: Made, sources: dict[str, dict[str, str]]) -> None:
    """Rename into place, the manifest last; graphs of an older export go."""
    target = order.target(step.model)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("model*.onnx*"):
        old.unlink()
    for name in step.files:
        (order.staging(step.model) / name).replace(target / name)
    write_manifest(
        target.parents[1], order.profile, step.files, source=sources[step.origin], precision=step.precision,
        tools={name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "tokenizers", "safetensors")},
        parity=step.parity, dims=step.dims,
    )  # fmt: skip
