"""`sightline-export sam`: a released SAM checkpoint -> the artefacts of `sam_encoder` and `sam_decoder`, proved equal.

Everything is written beside its place first and judged there; what does not reach its bar is never installed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
import torch
from rich.console import Console
from sightline_ensemble.artefacts import file_hash, load_manifest, write_manifest

from . import parity, precision
from .checkpoint import Sam, load_sam
from .gate import Gate, Tick, open_gate, wide_console
from .graphs import SamDecoder
from .half import rounded, typed
from .onnx_file import files_of, save, write_onnx
from .parity import BelowBar, Row, Summary

ENCODER, DECODER = "sam_encoder", "sam_decoder"
PICTURES = {"fp32": 3, "fp16": 20, "bf16": 20}  # three shapes; enough for the means of a half type
DECODER_SHARE = 1 / 3  # of the error that encoder and decoder may make together


@dataclass(frozen=True)
class Order:
    """What to export, from where, to where."""

    model: str
    checkpoint: Path
    repository: Path
    profile: str
    precisions: tuple[str, ...] = ("fp32",)
    pictures: int | None = None  # None: PICTURES
    images: Path | None = None  # a folder of real pictures; None: those of installed packages
    csv: Path | None = None

    def folder(self, step: str) -> Path:
        return self.repository / step / "1" / self.profile

    def count(self, precision: str) -> int:
        return self.pictures or PICTURES[precision]

    @property
    def report(self) -> Path:
        return self.csv or Path("build") / "parity" / f"{self.profile}.csv"


def export_sam(order: Order, console: Console | None = None) -> None:
    """Export, judge, install.

    Raises:
        CheckpointError: the file is not the checkpoint it should be.
        NoPictures: too few real pictures to judge by.
        BelowBar: an artefact is not equal enough; nothing is installed, the CSV says why.
    """
    console = console or wide_console()
    sam = load_sam(order.checkpoint, order.model)
    with staging(order) as (encoder, decoder), open_gate(sam, order, console) as (gate, tick):
        export_fp32(sam, encoder, decoder, tick)
        gate.ask_original(tick)
        kept = {}
        for half in order.precisions:
            judge = judge_fp32 if half == "fp32" else choose
            kept[half] = judge(gate, order, half, encoder, decoder, tick)
        tick("installing")
        install(order, gate, encoder, decoder, kept)
    console.print(f"installed in {order.repository} as profile '{order.profile}'; every picture's figures: {order.report}")


def check_sam(order: Order, console: Console | None = None) -> None:
    """Judge what is installed already against its checkpoint, in every precision asked for. Raises as `export_sam`; changes nothing."""
    console = console or wide_console()
    sam = load_sam(order.checkpoint, order.model)
    manifests = {step: load_manifest(order.repository / step, order.profile) for step in (ENCODER, DECODER)}
    paths = {p: [manifests[step].path(_file(p)) for step in (ENCODER, DECODER)] for p in order.precisions}
    with tempfile.TemporaryDirectory() as scratch, open_gate(sam, order, console) as (gate, tick):
        gate.ask_original(tick)
        for half, files in paths.items():
            encoder, decoder = (runnable(path, Path(scratch) / path.parents[2].name) for path in files)
            kept = manifests[ENCODER].parity[half]["kept_in_fp32"]
            if not gate.judge(half, kept, order.count(half), parity.encoder_of(encoder), parity.decoder_of(decoder), tick):
                raise BelowBar(f"{order.model} {half}: {gate.figures()}")


@contextmanager
def staging(order: Order) -> Iterator[tuple[Path, Path]]:
    """A folder for each step beside its final place (one file system, so that installing is renaming); always removed."""
    folders = [order.folder(step).with_name(f".{order.profile}.staging") for step in (ENCODER, DECODER)]
    try:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        yield folders[0], folders[1]
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def export_fp32(sam: Sam, encoder: Path, decoder: Path, tick: Tick) -> None:
    """model.onnx of both steps; the examples' sizes are those of the checkpoint, their counts are free."""
    size = sam.size
    tick("tracing the encoder")
    pixels = torch.zeros(2, 3, size.image_size, size.image_size, dtype=torch.uint8)
    resized = torch.full((2, 2), size.image_size, dtype=torch.int32)
    write_onnx(sam.encoder, {"sam_pixels": pixels, "resized_size": resized}, ("image_embedding",), encoder / "model.onnx", {})
    tick("tracing the decoder")
    graph = SamDecoder(sam.prompts, sam.decoder, size.grid, size.image_size)
    inputs = {
        "image_embedding": torch.zeros(2, size.out, size.grid, size.grid),
        "point_coords": torch.zeros(2, 3, 4, 2),
        "point_labels": torch.zeros(2, 3, 4),
    }
    points = {1: "prompts", 2: "points"}
    outputs = ("low_res_masks", "iou_predictions")
    write_onnx(graph, inputs, outputs, decoder / "model.onnx", {"point_coords": points, "point_labels": points})


def judge_fp32(gate: Gate, order: Order, half: str, encoder: Path, decoder: Path, tick: Tick) -> dict[str, str]:
    encode, decode = parity.encoder_of(encoder / "model.onnx"), parity.decoder_of(decoder / "model.onnx")
    if not gate.judge(half, "everything", order.count(half), encode, decode, tick):
        raise BelowBar(f"{order.model} {half}: {gate.figures()}; nothing was installed")
    return {ENCODER: "everything", DECODER: "everything"}


def choose(gate: Gate, order: Order, half: str, encoder: Path, decoder: Path, tick: Tick) -> dict[str, str]:
    """Write model.<half>.onnx of both steps, with as little in fp32 as the bar allows; returns what was kept."""
    count = order.count(half)
    decode = None
    for rung in precision.DECODER_RUNGS:  # on the original's embeddings: only the decoder differs
        kept_decoder, decode = precision.describe(rung), parity.decoder_of(_twin(decoder, half, rung))
        rows = []
        for picture, expected in zip(gate.samples[:count], gate.expected, strict=False):
            tick(f"{half} decoder ({kept_decoder}): {picture.name}")
            found = parity.answer(picture, lambda _, expected=expected: expected.image_embedding, decode, gate.side)
            rows.append(parity.compare(picture, expected, found, half, kept_decoder))
        if Summary.of(rows).reaches(parity.BARS[half].share(DECODER_SHARE)):
            break
    assert decode is not None
    for rung in precision.ENCODER_RUNGS:
        kept = precision.describe(rung)
        if gate.judge(half, kept, count, parity.encoder_of(_twin(encoder, half, rung)), decode, tick):
            return {ENCODER: kept, DECODER: kept_decoder}
    raise BelowBar(f"{order.model} {half}: {gate.figures()}; nothing was installed")


def _twin(folder: Path, half: str, rung: tuple[str, ...]) -> Path:
    """Write the half twin of a step, and return the form of it that this machine can run."""
    model = ir.load(folder / "model.onnx")
    typed(model, half, precision.keeper(rung))
    save(model, folder / _file(half))
    return runnable(folder / _file(half), folder / "runnable")


def runnable(path: Path, folder: Path) -> Path:
    """An fp32 graph itself; a half one with every result rounded, written to `folder`, for ONNX Runtime's CPU."""
    if path.name == _file("fp32"):
        return path
    twin = ir.load(path)
    rounded(twin)
    save(twin, folder / path.name)
    return folder / path.name


def install(order: Order, gate: Gate, encoder: Path, decoder: Path, kept: dict[str, dict[str, str]]) -> None:
    """Rename everything into place, manifests last; variants of an older export go."""
    size, source = gate.sam.size, {order.checkpoint.name: file_hash(order.checkpoint)}
    dims = {
        ENCODER: {"model": size.name, "image_size": size.image_size, "grid": size.grid},
        DECODER: {"model": size.name, "mask_size": 4 * size.grid},
    }
    for step, folder in ((ENCODER, encoder), (DECODER, decoder)):
        target = order.folder(step)
        target.mkdir(parents=True, exist_ok=True)
        names = [file.name for p in order.precisions for file in files_of(folder / _file(p))]
        for old in target.glob("model*.onnx*"):
            old.unlink()
        for name in names:
            (folder / name).rename(target / name)
        write_manifest(
            target.parents[1], order.profile, names, source=source, precision="fp32",
            tools={name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
            parity={p: {"kept_in_fp32": kept[p][step], **_summary(gate.rows, p, kept[p][ENCODER])} for p in order.precisions},
            dims=dims[step],
        )  # fmt: skip


def _file(precision: str) -> str:
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"


def _summary(rows: Sequence[Row], precision: str, kept: str) -> dict[str, object]:
    return asdict(Summary.of([row for row in rows if (row.precision, row.kept) == (precision, kept)]))
