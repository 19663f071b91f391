"""Runs a step of the scheduler on the model: builds the flat tensors, keeps keys and values in the store."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .cache import BLOCK, Store, slots_of
from .config import LisaConfig
from .graphs import Graphs
from .int4 import Int4Linear, Tensors, load_embedding, load_linear
from .model import FEWEST_ROWS, Adapted, Llama, RMSNorm
from .prompt import IMAGE
from .scheduler import Decode, Prefill
from .sequence import Request, Sequence

log = logging.getLogger(__name__)


def load_model(folder: Path, device: torch.device | None = None) -> Llama:
    """The model of an artefact folder (`config.json`, `model.safetensors`) in its own dtype; what was trained stays fp32.

    Raises KeyError or ValueError where the files do not fit each other.
    """
    device = device or torch.device("cpu")
    return build_model(LisaConfig.read(folder / "config.json"), load_file(folder / "model.safetensors"), device)


def build_model(config: LisaConfig, tensors: Tensors, device: torch.device) -> Llama:
    dtype = getattr(torch, config.dtype)

    def linear(name: str, inputs: int, outputs: int) -> nn.Module:
        base = load_linear(tensors, name, dtype, device)
        if f"{name}.lora_a" not in tensors:
            return base
        return Adapted(base, inputs, outputs, len(tensors[f"{name}.lora_a"]))

    embed = load_embedding(tensors, "embed_tokens", dtype, device)
    model = Llama(config, linear, embed, load_linear(tensors, "head", dtype, device))
    names = [name for name, _ in model.named_parameters() if ".base." not in name]
    if lost := [name for name in names if name not in tensors]:
        raise ValueError(f"model.safetensors lacks {', '.join(lost[:3])}")
    model.load_state_dict({name: tensors[name] for name in names}, strict=False)
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.to(dtype)
    return model.to(device).eval().requires_grad_(False)


def resident_bytes(model: Llama) -> tuple[int, int]:
    """Bytes of the large linears as they lie in memory, and what they would take in bf16."""
    layers = [module for module in model.modules() if isinstance(module, Int4Linear)]
    return sum(layer.bytes for layer in layers), sum(2 * layer.inputs * layer.outputs for layer in layers)


class Runner:
    def __init__(self, model: Llama, pages: int) -> None:
        self.model, self.config = model, model.config
        self.device = model.cos.device
        self.dtype = getattr(torch, self.config.dtype)
        self.group = self.config.num_heads // self.config.num_kv_heads
        self.graphs: Graphs | None = None
        self.resize(pages)

    def resize(self, pages: int) -> None:
        """Another cache, empty; graphs of the old one are worth nothing."""
        self.pages, self.graphs, self.store = pages, None, None  # the old one's memory is free before the new one takes its own
        self.store = Store(self.config, pages, self.dtype, self.device)

    @torch.inference_mode()
    def capture(self, running: int) -> None:
        """Steps of up to so many sequences become CUDA graphs; where that fails they run as they are."""
        try:
            self.graphs = Graphs(self._token, running, -(-self.config.context // BLOCK), self.pages, self.device)
        except Exception as error:
            log.warning("CUDA graphs: %s: %s; steps run without", type(error).__name__, str(error).split("\n")[0])

    @torch.inference_mode()
    def largest(self, chunk: int, running: int) -> None:
        """Runs what takes most memory: the last chunk of a full context, and a token for everybody with one."""
        context, table = self.config.context, list(range(-(-self.config.context // BLOCK)))
        chunk = min(chunk, context)
        empty = Request(np.zeros((0, self.config.image_width), np.float32), "")
        full = Sequence(empty, print, [0] * context, context, 1, b"", 0, table=table, computed=context - chunk)
        self._prefill(full, chunk)
        positions = torch.full((running,), context - 1, device=self.device)
        self.model.logits(self._token(positions.clone().zero_(), positions, self._tensor([table] * running)))

    @torch.inference_mode()
    def run(self, step: Prefill | Decode) -> Tensor:
        """Hidden states [N, H] after the last norm, at the last position computed of each sequence of the step."""
        return self._prefill(step.sequence, step.count) if isinstance(step, Prefill) else self._decode(step.sequences)

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _prefill(self, sequence: Sequence, count: int) -> Tensor:
        start, end = sequence.computed, sequence.computed + count
        x = self._vectors(sequence, start, end)
        slots = self._tensor(slots_of(sequence.table, end))
        fresh, positions = slots[start:end], torch.arange(start, end, device=self.device)
        # Whole pages of keys, no block of few queries: then attention gives a row the same bits however the prompt is cut.
        spare = -count % FEWEST_ROWS
        later = torch.arange(len(slots), device=self.device) > torch.arange(start, end + spare, device=self.device).unsqueeze(1)
        mask = torch.zeros(later.shape, dtype=self.dtype, device=self.device).masked_fill_(later, -torch.inf)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.store.write(layer, fresh, k, v)
            k, v = self.store.read(layer, slots, 1)
            q = F.pad(q, (0, 0, 0, 0, 0, spare)).transpose(0, 1).unsqueeze(0)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.group > 1)
            return out[0].transpose(0, 1).flatten(1)[:count]

        return self.model(x, positions, attend)[-1:]

    def _vectors(self, sequence: Sequence, start: int, end: int) -> Tensor:
        """Vectors [end - start, H] of tokens and picture."""
        ids = self._tensor(sequence.ids[start:end])
        x = self.model.embed(ids.clamp(min=0))
        if IMAGE in sequence.ids[start:end]:
            if sequence.pictures is None:
                features = torch.from_numpy(sequence.request.features).to(self.device)
                sequence.pictures = self.model.project(features).to(self.dtype)
            first = sequence.ids[:start].count(IMAGE)
            x[ids == IMAGE] = sequence.pictures[first : first + sequence.ids[start:end].count(IMAGE)]
        return x

    def _decode(self, sequences: list[Sequence]) -> Tensor:
        width = max(len(sequence.table) for sequence in sequences)
        tables = self._tensor([s.table + [self.pages] * (width - len(s.table)) for s in sequences])
        positions = self._tensor([sequence.computed for sequence in sequences])
        tokens = self._tensor([sequence.ids[-1] for sequence in sequences])
        if self.graphs and self.graphs.fits(len(sequences), width):
            return self.graphs.run(tokens, positions, tables)
        return self._token(tokens, positions, tables)

    def _token(self, tokens: Tensor, positions: Tensor, tables: Tensor) -> Tensor:
        """A token for each: int64 tokens [B] at positions [B], pages of theirs and everything before [B, P] -> hidden [B, H].

        Whole pages for everybody: the attention kernel then gives the same bits alone and in a batch.
        """
        batch, width = tables.shape[0], tables.shape[1] * BLOCK
        slots = (tables.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=self.device)).view(batch, width)
        fresh = slots.gather(1, positions.unsqueeze(1)).squeeze(1)
        later = torch.arange(width, device=self.device) > positions.unsqueeze(1)
        mask = torch.zeros(later.shape, dtype=self.dtype, device=self.device).masked_fill_(later, -torch.inf).view(batch, 1, 1, width)
        flat, kv_heads = slots.flatten(), self.config.num_kv_heads

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.store.write(layer, fresh, k, v)
            k, v = self.store.read(layer, flat, batch)
            # The query heads that share keys are handed over as several queries of one head: five times faster on a CPU.
            grouped = q.view(batch, kv_heads, self.group, -1)
            return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).flatten(1)

        return self.model(self.model.embed(tokens), positions, attend)
