"""The artefact of `lisa_engine` from a released checkpoint: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.lisa.prompt import Prompter

from . import bits, figures
from .lisa_checkpoint import LisaCheckpoint
from .lisa_install import LANGUAGE, Made, Order, Tick
from .lisa_weights import Exact, Stored, groups
from .rows import write_csv
from .samples import Eyes, judge
from .stream_file import write_safetensors

FILES = ("config.json", "model.safetensors", "tokenizer.json")
PRECISIONS = {32: "fp32", 16: "bf16", 8: "int8 by row, bf16"}
METHODS = "methods"


def write_language(lisa: LisaCheckpoint, folder: Path, stored: Stored, tick: Callable[[str], None] = lambda name: None) -> None:
    """Write the three files into an existing folder; CheckpointError where a tensor is missing or damaged."""
    write_safetensors(folder / "model.safetensors", groups(lisa, stored), tick)
    lisa.config.with_(dtype=str(stored.dtype).removeprefix("torch.")).write(folder / "config.json")
    lisa.tokenizer.save(str(folder / "tokenizer.json"))


def make_language(order: Order, lisa: LisaCheckpoint, others: list[Made], console: Console, tick: Tick) -> Made:
    """The three files beside their place; what fewer bits than 32 cost, with the `others` around, is printed and kept."""
    config, stored, precision, parity = lisa.config, Stored(order.bits), PRECISIONS.get(order.bits, ""), {}
    if order.bits < 32:
        choice = _choose(order, lisa, eyes_of(order, others), tick)
        bits.show(console, order.checkpoint.name, choice)
        write_csv(order.csv or Path("build/parity") / f"{order.profile}-layers.csv", choice.errors)
        parity = {"form": choice.form, "figures": figures.as_parity(choice.found)}
        if choice.method:
            stored = Stored(4, order.group, order.staging(LANGUAGE) / METHODS / choice.method)
            precision = f"int4 g{order.group} ({choice.method}), bf16"
    names = [name for group in groups(lisa, stored) for name in group.forms]
    write_language(lisa, order.staging(LANGUAGE), stored, lambda name: tick(name, names.index(name), len(names)))
    dims = {"slots": config.slots, "width": config.seg_width, "image_width": config.image_width, "context": config.context}
    return Made(LANGUAGE, "lisa", list(FILES), precision, dims, parity)


def _choose(order: Order, lisa: LisaCheckpoint, eyes: Eyes, tick: Tick) -> bits.Choice:
    tick("looking at real pictures")
    judged = judge(eyes, Prompter(lisa.config, lisa.tokenizer), order.pictures, order.images, calibrate=order.bits == 4)
    work, layers = order.staging(LANGUAGE) / METHODS, lisa.config.num_layers
    return bits.choose(Exact(lisa), judged, order.bits, order.group, work, lambda i: tick("every form, layer by layer", i, layers))


def eyes_of(order: Order, made: list[Made]) -> Eyes:
    """The graphs just made, and SAM's encoder where it is installed already."""
    dims = {step.model: step.dims for step in made}
    vision, decoder, sam = (order.staging(model) / "model.onnx" for model in ("vision_encoder", "lisa_decoder", "sam_encoder"))
    if "sam_encoder" not in dims:
        manifest = load_manifest(order.repository / "sam_encoder", order.profile)
        sam, dims["sam_encoder"] = manifest.path("model.onnx"), dict(manifest.dims)
    return Eyes(vision, dims["vision_encoder"], sam, dims["sam_encoder"], decoder)
