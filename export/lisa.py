"""`sightline-export lisa`: a released LISA with its CLIP -> the artefacts of a whole profile.

Everything is written beside its place first; only what is complete and judged is renamed into it, manifests last.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from sightline_ensemble.artefacts import ArtefactError, file_hash, load_manifest

from .checkpoint import CheckpointError, Sam, load_sam
from .clip import load_clip
from .gate import wide_console
from .lisa_checkpoint import LisaCheckpoint, check_clip, check_weights, read_lisa
from .lisa_install import LANGUAGE, Made, Order, Tick, install, progress, staging
from .lisa_language import make_language
from .lisa_sam import inner_sam, same_encoder
from .lisa_steps import Graph, lisa_graph, sam_graphs, vision_graph, write_graph
from .onnx_file import files_of
from .sam_encoder import SIZES
from .shards import open_shards


def export_lisa(order: Order, console: Console | None = None) -> None:
    """Export, judge, install.

    Raises:
        CheckpointError: the checkpoint, its CLIP or the released SAM is not what it should be; names the file and the key.
        Differs: a graph does not give the numbers of its original.
        NoPictures: there are not enough to choose fewer bits by.
    """
    console = console or wide_console()
    lisa = read_lisa(order.checkpoint)
    check_weights(lisa)
    whose, graphs = graphs_of(order, lisa)
    with staging(order, [*(graph.model for graph in graphs), LANGUAGE]), progress(console) as tick:
        made = []
        while graphs:  # each goes when it is done: what follows wants the memory
            made.append(_graph(order, graphs.pop(0), tick))
        made.append(make_language(order, lisa, made, console, tick))
        sources = sources_of(order, lisa, tick)
        for step in made:
            install(order, step, sources)
    console.print(_table(order, made))
    console.print(f"{whose}; installed in {order.repository} as profile '{order.profile}'")


def graphs_of(order: Order, lisa: LisaCheckpoint) -> tuple[str, list[Graph]]:
    """Whose SAM the profile gets, in words, and all graphs to export."""
    clip = load_clip(order.clip, lisa.select_layer)
    check_clip(lisa, order.clip, clip.size)
    inner = inner_sam(lisa.shards)
    whose, of_sam = sam_of(order, inner)
    return whose, [vision_graph(clip), lisa_graph(inner), *of_sam]


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


def _graph(order: Order, graph: Graph, tick: Tick) -> Made:
    tick(f"{graph.model}: tracing and comparing")
    path = order.staging(graph.model) / "model.onnx"
    worst = write_graph(graph, path)
    return Made(graph.model, graph.origin, [file.name for file in files_of(path)], "fp32", graph.dims, {"max_error_of_range": worst})


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


def _table(order: Order, made: list[Made]) -> Table:
    table = Table("step", "precision", "measured", title=f"{order.checkpoint.name}, profile {order.profile}")
    for step in made:
        error = step.parity.get("max_error_of_range")
        measured = "see above" if step.parity else "the checkpoint's own weights"
        table.add_row(step.model, step.precision, f"max error of range {error:.1e}" if error is not None else measured)
    return table
