"""`sightline-export lisa`: a released LISA with its CLIP -> the artefacts of a whole profile.

Everything is written beside its place first; only what is complete and judged is renamed into it, manifests last.
"""

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
from rich.table import Table
from sightline_ensemble.artefacts import ArtefactError, file_hash, load_manifest, write_manifest

from .checkpoint import CheckpointError, Sam, load_sam
from .clip import load_clip
from .lisa_checkpoint import LisaCheckpoint, check_clip, read_lisa
from .lisa_language import FILES, write_language
from .lisa_sam import inner_sam, same_encoder
from .lisa_steps import Graph, lisa_graph, sam_graphs, vision_graph, write_graph
from .lisa_weights import groups
from .onnx_file import files_of
from .sam_encoder import SIZES
from .shards import open_shards

LANGUAGE = "lisa_engine"
PRECISIONS = {32: "fp32", 16: "bf16"}


class Tick(Protocol):
    """Told what is being done, and how much of how much."""

    def __call__(self, what: str, done: int | None = None, total: int | None = None) -> None: ...


@dataclass(frozen=True)
class Order:
    """What to export, from where, to where. `sam_checkpoint`: the released SAM, to share its encoder."""

    checkpoint: Path
    clip: Path
    bits: int
    repository: Path
    profile: str
    sam_checkpoint: Path | None = None

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
    parity: dict[str, float] = field(default_factory=dict)


def export_lisa(order: Order, console: Console | None = None) -> None:
    """Export, judge, install.

    Raises:
        CheckpointError: the checkpoint, its CLIP or the released SAM is not what it should be; names the file and the key.
        Differs: a graph does not give the numbers of its original.
    """
    console = console or Console()
    lisa = read_lisa(order.checkpoint)
    clip = load_clip(order.clip, lisa.select_layer)
    check_clip(lisa, order.clip, clip.size)
    whose, sam_steps = sam_of(order, inner := inner_sam(lisa.shards))
    steps = [vision_graph(clip), lisa_graph(inner), *sam_steps]
    with staging(order, [*(graph.model for graph in steps), LANGUAGE]), progress(console) as tick:
        made = [_graph(order, graph, tick) for graph in steps]
        made.append(_language(order, lisa, tick))
        sources = sources_of(order, lisa, tick)
        for step in made:
            install(order, step, sources)
    console.print(_table(order, made))
    console.print(f"{whose}; installed in {order.repository} as profile '{order.profile}'")


def sam_of(order: Order, inner: Sam) -> tuple[str, list[Graph]]:
    """Whose SAM the profile gets, in words, and the graphs to export for it: none where it is installed already."""
    if order.sam_checkpoint is None:
        return "no released SAM was given: sam_encoder and sam_decoder are LISA's own", sam_graphs(inner, "lisa")
    if inner.size.name not in SIZES:
        raise CheckpointError(f"{order.sam_checkpoint.name}: SAM inside {order.checkpoint.name} is of no released size, it cannot be this")
    released = load_sam(order.sam_checkpoint, inner.size.name)
    if differs := same_encoder(inner, released):
        return f"SAM's encoder inside is not the released one ('{differs}' differs): LISA's own was exported", sam_graphs(inner, "lisa")
    if _is_installed(order, order.sam_checkpoint):
        return "SAM's encoder inside is the released one: sam_encoder is shared", []
    return "SAM's encoder inside is the released one: sam_encoder and sam_decoder were made from it", sam_graphs(released, "sam")


def _is_installed(order: Order, sam_checkpoint: Path) -> bool:
    try:
        manifests = [load_manifest(order.repository / model, order.profile) for model in ("sam_encoder", "sam_decoder")]
    except ArtefactError:
        return False
    wanted = file_hash(sam_checkpoint)
    return all(wanted in manifest.source.values() for manifest in manifests)


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


def _graph(order: Order, graph: Graph, tick: Tick) -> Made:
    tick(f"{graph.model}: tracing and comparing")
    path = order.staging(graph.model) / "model.onnx"
    worst = write_graph(graph, path)
    return Made(graph.model, graph.origin, [file.name for file in files_of(path)], "fp32", graph.dims, {"max_error_of_range": worst})


def _language(order: Order, lisa: LisaCheckpoint, tick: Tick) -> Made:
    names = [name for group in groups(lisa, order.bits) for name in group.forms]
    write_language(lisa, order.staging(LANGUAGE), order.bits, lambda name: tick(name, names.index(name), len(names)))
    config = lisa.config
    dims = {"slots": config.slots, "width": config.seg_width, "image_width": config.image_width, "context": config.context}
    return Made(LANGUAGE, "lisa", list(FILES), PRECISIONS[order.bits], dims)


def sources_of(order: Order, lisa: LisaCheckpoint, tick: Tick) -> dict[str, dict[str, str]]:
    """By origin: hashes of the files that the weights were read from."""
    clip = open_shards(order.clip)
    files = {
        origin: sorted({shards.folder / file for file in shards.files.values()})
        for origin, shards in (("lisa", lisa.shards), ("clip", clip))
    }
    files["sam"] = [order.sam_checkpoint] if order.sam_checkpoint else []
    found: dict[str, dict[str, str]] = {}
    for origin, paths in files.items():
        found[origin] = {}
        for path in paths:
            tick(f"hashing {path.name}")
            found[origin][path.name] = file_hash(path)
    return found


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


def _table(order: Order, made: list[Made]) -> Table:
    table = Table("step", "precision", "measured", title=f"{order.checkpoint.name}, profile {order.profile}")
    for step in made:
        measured = ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in step.parity.items())
        table.add_row(step.model, step.precision, measured or "the checkpoint's own weights")
    return table
