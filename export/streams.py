"""A language model run layer by layer in several forms beside its original: only one layer of the original is in memory at a time.

Each form is a whole answer to "what if the linear layers were stored like this": its layers are the server's own, in the
server's dtype, and its hidden states go from layer to layer as they would there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from sightline_ensemble.lisa.config import LisaConfig
from sightline_ensemble.lisa.int4 import Tensors, dense, load_linear
from sightline_ensemble.lisa.model import Adapted, Layer, LinearFactory, Llama, RMSNorm, causal
from sightline_ensemble.lisa.prompt import IMAGE
from sightline_ensemble.lisa.runner import build_model
from torch import Tensor, nn

CPU = torch.device("cpu")
LINEARS = ("qkv", "o", "gate_up", "down")
KEPT_ROWS = 512  # of a layer's held-out inputs: enough to tell its error

Convert = Callable[[str, Tensor, Tensor], Tensors]
"""name ("layers.0.qkv"), weight float32 [O, I], second moments of its inputs [I, I] -> stored tensors, by their endings"""


@dataclass(frozen=True)
class Sample:
    """A prompt with its answer. `ids`: `IMAGE` for each picture token; `start`: of the answer; `picture`: number of its picture."""

    ids: list[int]
    start: int
    features: np.ndarray | None = None
    picture: int | None = None


class Source(Protocol):
    """The original's exact weights, float32, named as in an artefact."""

    config: LisaConfig

    def ends(self) -> Tensors:
        """Everything outside of the layers."""

    def layer(self, index: int) -> Tensors: ...


@dataclass(frozen=True)
class Form:
    """A way to store the linear layers. `dtype`: of the rest and of the activations; `ends`: what it stores otherwise outside of
    the layers; `keep` is handed every layer's stored tensors."""

    name: str
    dtype: torch.dtype
    convert: Convert
    ends: Tensors = field(default_factory=dict)
    keep: Callable[[str, Tensors], None] = lambda name, stored: None


@dataclass
class Seen:
    """What went into a linear layer of the original: second moments over the calibration samples, rows of the held-out ones."""

    total: Tensor | None = None
    count: int = 0
    rows: list[Tensor] = field(default_factory=list)

    def learn(self, x: Tensor) -> None:
        self.total = x.T @ x if self.total is None else self.total.addmm_(x.T, x)
        self.count += len(x)

    @property
    def moments(self) -> Tensor:
        """[I, I]; the identity where no calibration sample was seen."""
        return torch.eye(self.rows[0].shape[1]) if self.total is None else self.total / self.count


class Heard(nn.Module):
    """A linear layer whose inputs are told."""

    def __init__(self, base: nn.Module, hear: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.base, self.hear = base, hear

    def forward(self, x: Tensor) -> Tensor:
        self.hear(x)
        return self.base(x)


@dataclass
class Stream:
    """Hidden states of every sample, in one form. `ends`: the model without its layers."""

    ends: Llama
    states: list[Tensor]

    def advance(self, layer: Layer) -> None:
        self.states = [self._run(layer, x) for x in self.states]

    def _run(self, layer: Layer, x: Tensor) -> Tensor:
        return layer(x, (self.ends.cos[: len(x)], self.ends.sin[: len(x)]), alone)


@dataclass(frozen=True)
class LayerError:
    """Of one linear layer in one form, relative: of its weights, and of its outputs on held-out inputs."""

    form: str
    name: str
    weight: float
    output: float


@dataclass(frozen=True)
class Outcome:
    """What comes out of one form for one sample: logits at the answer's tokens, and `[SEG]` vectors."""

    logits: Tensor  # [N, words], of ids[start:]
    segs: Tensor  # [n, E]


@dataclass(frozen=True)
class Run:
    """All streams at the end of the layers. `streams`: by form, of the held-out samples."""

    held_out: Sequence[Sample]
    original: Stream
    streams: dict[str, Stream]
    errors: list[LayerError]

    @torch.inference_mode()
    def outcomes(self, form: str | None = None) -> list[Outcome]:
        """Of the held-out samples; None: the original's."""
        stream = self.streams[form] if form else self.original
        states = stream.states[len(stream.states) - len(self.held_out) :]
        return [outcome(stream.ends, sample, x) for sample, x in zip(self.held_out, states, strict=True)]


@torch.inference_mode()
def run(
    source: Source, forms: Sequence[Form], calibration: Sequence[Sample], held_out: Sequence[Sample], tick: Callable[[int], None]
) -> Run:
    """Original and forms through all layers; `tick` hears the number of each before it is begun."""
    config = source.config
    exact = open_stream(build_ends(config, source.ends(), torch.float32), [*calibration, *held_out])
    streams, errors = _open_streams(source, forms, held_out), []
    for i in range(config.num_layers):
        tick(i)
        original = source.layer(i)
        seen = watch(exact, config, i, original, len(calibration))
        for form in forms:
            stored = dict(original)
            for name in (f"layers.{i}.{part}" for part in LINEARS):
                weight = stored.pop(f"{name}.weight")
                made = {f"{name}.{key}": value for key, value in form.convert(name, weight, seen[name].moments).items()}
                form.keep(name, made)
                errors.append(layer_error(form.name, name, weight, made, seen[name]))
                stored |= made
            streams[form.name].advance(build_layer(i, config, stored, form.dtype))
    return Run(held_out, exact, streams, errors)


def _open_streams(source: Source, forms: Sequence[Form], samples: Sequence[Sample]) -> dict[str, Stream]:
    """Forms with equal ends share them: they hold the vocabulary."""
    shared: dict[torch.dtype, Llama] = {}
    streams = {}
    for form in forms:
        if form.ends or form.dtype not in shared:
            ends = build_ends(source.config, {**source.ends(), **form.ends}, form.dtype)
            if not form.ends:
                shared[form.dtype] = ends
        streams[form.name] = open_stream(ends if form.ends else shared[form.dtype], samples)
    return streams


def build_ends(config: LisaConfig, tensors: Tensors, dtype: torch.dtype) -> Llama:
    """The model without its layers."""
    return build_model(config.with_(num_layers=0, dtype=str(dtype).removeprefix("torch.")), tensors, CPU)


def open_stream(ends: Llama, samples: Sequence[Sample]) -> Stream:
    return Stream(ends, [vectors(ends, sample) for sample in samples])


def vectors(ends: Llama, sample: Sample) -> Tensor:
    """[T, H]"""
    row = torch.tensor(sample.ids)
    x = ends.embed(row.clamp(min=0))
    if sample.features is not None:
        x[row == IMAGE] = ends.project(torch.from_numpy(sample.features)).to(x.dtype)
    return x


def watch(exact: Stream, config: LisaConfig, index: int, tensors: Tensors, calibrating: int) -> dict[str, Seen]:
    """Run the original's layer; what went into its linear layers, the first `calibrating` samples being those to learn from."""
    seen = {f"layers.{index}.{part}": Seen() for part in LINEARS}
    learning = True

    def hear(name: str, x: Tensor) -> None:
        if learning:
            seen[name].learn(x)
        elif sum(map(len, seen[name].rows)) < KEPT_ROWS:
            seen[name].rows.append(x[:KEPT_ROWS])

    layer = build_layer(index, config, tensors, torch.float32, hear)
    states = []
    for number, x in enumerate(exact.states):
        learning = number < calibrating
        states.append(exact._run(layer, x))
    exact.states = states
    return seen


def build_layer(
    index: int, config: LisaConfig, tensors: Tensors, dtype: torch.dtype, hear: Callable[[str, Tensor], None] | None = None
) -> Layer:
    """The server's own layer from stored tensors; `hear` is told the inputs of its linear layers."""

    def linear(name: str, inputs: int, outputs: int) -> nn.Module:
        base = load_linear(tensors, name, dtype, CPU)
        base = Heard(base, lambda x: hear(name, x)) if hear else base
        if f"{name}.lora_a" not in tensors:
            return base
        made = Adapted(base, inputs, outputs, len(tensors[f"{name}.lora_a"]))
        made.lora_a.data, made.lora_b.data = (tensors[f"{name}.lora_{end}"].float() for end in "ab")
        return made

    factory: LinearFactory = linear
    layer = Layer(index, config, factory)
    for name in ("input_norm", "post_norm"):
        norm: RMSNorm = getattr(layer, name)
        norm.weight.data = tensors[f"layers.{index}.{name}.weight"].to(dtype)
    return layer.eval().requires_grad_(False)


def alone(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one whole sequence [T, heads, d]."""
    return causal(layer, q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0))[0]


def layer_error(form: str, name: str, weight: Tensor, stored: Tensors, seen: Seen) -> LayerError:
    """Of the weights as the server multiplies by them."""
    away = dense(stored, name)[:, : weight.shape[1]] - weight
    rows = torch.cat(seen.rows)[:KEPT_ROWS]
    output = (rows @ away.T).norm() / (rows @ weight.T).norm().clamp_min(1e-30)
    return LayerError(form, name, float(away.norm() / weight.norm().clamp_min(1e-30)), float(output))


def outcome(ends: Llama, sample: Sample, states: Tensor) -> Outcome:
    hidden = ends.norm(states)[sample.start - 1 : -1]  # each predicts the token after it
    at = [i for i, token in enumerate(sample.ids[sample.start :]) if token == ends.config.seg]
    return Outcome(ends.logits(hidden), ends.seg(hidden[at]))
