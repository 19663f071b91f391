"""The ONNX graphs of a LISA's profile, each judged against torch before it is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sightline_ensemble.contract import MODELS, SEG_SLOTS
from torch import Tensor, nn

from .checkpoint import Sam
from .clip import VisionEncoder
from .graphs import LisaDecoder, SamDecoder
from .onnx_file import write_onnx

BAR = 2e-4  # of an output's range: what ONNX Runtime's order of work may change in fp32


class Differs(RuntimeError):
    """A graph does not give the numbers of its original."""


@dataclass(frozen=True)
class Graph:
    """One step: its module, an example of each input with two pictures, and what its manifest says.

    `origin`: where its weights come from, "clip", "lisa" or "sam" (a released one).
    """

    model: str
    origin: str
    module: nn.Module
    inputs: dict[str, Tensor]
    dims: dict[str, object]

    @property
    def outputs(self) -> tuple[str, ...]:
        clock = {f"{self.model}_clock"}
        return tuple(t.name for t in MODELS[self.model].outputs if t.name not in clock)

    @property
    def dynamic(self) -> dict[str, dict[int, str]]:
        return {name: MODELS[self.model].dynamic_axes(name) for name in self.inputs}


def vision_graph(clip: VisionEncoder) -> Graph:
    side, generator = clip.size.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    return Graph("vision_encoder", "clip", clip, {"vision_pixels": pixels}, clip.size.dims)


def lisa_graph(sam: Sam) -> Graph:
    size, generator = sam.size, torch.Generator().manual_seed(0)
    inputs = {"image_embedding": _embedding(sam), "seg_embeddings": torch.randn(2, SEG_SLOTS, size.out, generator=generator)}
    dims = {"slots": SEG_SLOTS, "width": size.out, "mask_size": 4 * size.grid}
    return Graph("lisa_decoder", "lisa", LisaDecoder(sam.prompts, sam.decoder, size.grid, size.image_size), inputs, dims)


def sam_graphs(sam: Sam, origin: str) -> list[Graph]:
    """Encoder and decoder of a released SAM ("sam"), or of LISA's own ("lisa")."""
    size, generator = sam.size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, size.image_size, size.image_size), dtype=torch.uint8, generator=generator)
    resized = torch.tensor([[size.image_size, size.image_size], [size.image_size // 2, size.image_size]], dtype=torch.int32)
    coords = torch.rand(2, 3, 4, 2, generator=generator) * size.image_size
    labels = torch.tensor([1.0, 0.0, 2.0, 3.0]).expand(2, 3, 4).clone()
    prompts = {"image_embedding": _embedding(sam), "point_coords": coords, "point_labels": labels}
    module = SamDecoder(sam.prompts, sam.decoder, size.grid, size.image_size)
    known = {"model": size.name}
    return [
        Graph(
            "sam_encoder", origin, sam.encoder, {"sam_pixels": pixels, "resized_size": resized},
            {**known, "image_size": size.image_size, "grid": size.grid},
        ),
        Graph("sam_decoder", origin, module, prompts, {**known, "mask_size": 4 * size.grid}),
    ]  # fmt: skip


def _embedding(sam: Sam) -> Tensor:
    return torch.randn(2, sam.size.out, sam.size.grid, sam.size.grid, generator=torch.Generator().manual_seed(1))


def write_graph(graph: Graph, path: Path) -> float:
    """Write `path`; returns the largest difference from torch as a share of the range, over all outputs. Differs beyond BAR."""
    write_onnx(graph.module, graph.inputs, graph.outputs, path, graph.dynamic)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(list(graph.outputs), {name: value.numpy() for name, value in graph.inputs.items()})
    with torch.inference_mode():
        expected = graph.module(*graph.inputs.values())
    pairs = zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True)
    worst = max(float(np.abs(a - b.numpy()).max() / (np.ptp(b.numpy()) or 1)) for a, b in pairs)
    if not worst <= BAR:
        raise Differs(f"{graph.model}: differs from the original by {worst:.1e} of its range, expected at most {BAR:.0e}")
    return worst
