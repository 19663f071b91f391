"""`sightline-export bits`: what 16, 8 and 4 bits cost the tiny profile, by the code that chooses them for a released LISA.

The original is SmolLM2 exactly as its GGUF says, with this repository's trained part, in float32. The form that is served keeps
the GGUF's own 4-bit codes; the methods are compared on its weights in larger groups.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from rich.console import Console
from rich.progress import Progress
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.lisa.config import LisaConfig
from sightline_ensemble.lisa.int4 import dense
from sightline_ensemble.lisa.prompt import Prompter
from torch import Tensor

from . import bits, figures
from .gate import wide_console
from .rows import write_csv
from .samples import Eyes, judge
from .smollm2 import base_tensors, gguf_path, halves_paired, linear_parts, q4_1_blocks, read_config, read_delta, tokenizer, vocabulary
from .streams import Form, run
from .tiny import WEIGHTS

SERVED = "4 bits in groups of 32, the GGUF's own (served)"


@dataclass(frozen=True)
class Order:
    """The installed profile whose eyes are used, and what to judge by. `group`: of the methods compared."""

    repository: Path
    profile: str
    group: int
    pictures: int
    images: Path | None
    csv: Path | None


@dataclass(frozen=True)
class Exact:
    """SmolLM2's own weights with the trained part, float32, a layer at a time (`streams.Source`)."""

    reader: GGUFReader
    delta: Path

    @cached_property
    def config(self) -> LisaConfig:
        return read_config(self.reader, image_width=read_delta(self.delta)[1]["image_width"])

    @cached_property
    def trained(self) -> dict[str, Tensor]:
        return read_delta(self.delta)[0]

    @cached_property
    def file(self) -> dict[str, ReaderTensor]:
        return {tensor.name: tensor for tensor in self.reader.tensors}

    def ends(self) -> dict[str, Tensor]:
        """Everything outside of the layers; the head is the table of the words."""
        table = dense(vocabulary(self.file["token_embd.weight"]), "embed_tokens")
        norm = torch.from_numpy(self.file["output_norm.weight"].data.copy())
        rest = {name: value for name, value in self.trained.items() if not name.startswith("layers.")}
        return {"embed_tokens.weight": table, "head.weight": table, "norm.weight": norm, **rest}

    def layer(self, index: int) -> dict[str, Tensor]:
        prefix = f"layers.{index}."
        made = {name: value for name, value in self.trained.items() if name.startswith(prefix)}
        for part, names in linear_parts(self.config).items():
            rows = [dequantised(self.file[f"blk.{index}.{name}.weight"], heads) for name, heads in names]
            made[f"{prefix}{part}.weight"] = torch.from_numpy(np.concatenate(rows))
        for norm, source in (("input_norm", "attn_norm"), ("post_norm", "ffn_norm")):
            made[f"{prefix}{norm}.weight"] = torch.from_numpy(self.file[f"blk.{index}.{source}.weight"].data.copy())
        return made


def dequantised(tensor: ReaderTensor, heads: int) -> np.ndarray:
    """Exactly what a Q4_1 tensor stands for, float32 [O, I]; heads > 0: rows to re-order."""
    codes, d, m = q4_1_blocks(tensor)
    rows = codes * d.astype(np.float32).repeat(32, 1) + m.astype(np.float32).repeat(32, 1)
    return halves_paired(rows, heads) if heads else rows


def served(source: Exact) -> Form:
    """As the artefact stores it."""
    tensors = base_tensors(source.reader, source.config)
    ends = {name: tensors[name] for name in tensors if name.startswith(("embed_tokens", "head"))}
    return Form(SERVED, torch.bfloat16, lambda name, weight, moments: {end: tensors[f"{name}.{end}"] for end in ("q4", "sz")}, ends)


def compare(order: Order, console: Console | None = None) -> dict[str, figures.Figures]:
    """Measure and print; ArtefactError where the profile is not installed."""
    console = console or wide_console()
    eyes = Eyes.of(*(load_manifest(order.repository / model, order.profile) for model in ("vision_encoder", "sam_encoder", "lisa_decoder")))
    source = Exact(GGUFReader(gguf_path()), WEIGHTS / "language.safetensors")
    judged = judge(eyes, Prompter(source.config, tokenizer(source.reader)), order.pictures, order.images)
    with tempfile.TemporaryDirectory() as work, Progress(console=console, transient=True) as bar:
        task = bar.add_task("every form, layer by layer", total=source.config.num_layers)
        made = [*bits.forms(4, order.group, Path(work)), served(source)]
        done = run(source, made, judged.calibration, judged.held_out, lambda i: bar.update(task, completed=i))
    found = figures.measure(done, judged.masks)
    bits.show(console, f"SmolLM2 with the tiny LISA, profile {order.profile}", bits.Choice(SERVED, "", found, done.errors))
    write_csv(order.csv or Path("build/parity") / f"{order.profile}-layers.csv", done.errors)
    ratio = found[SERVED].perplexity / found["16 bits"].perplexity
    console.print(f"perplexity of the text, served to 16 bits: {ratio:.4f}")
    return found
