"""The techniques of benchmarks/engine.py: how each computes a prompt, a token, and whole requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from engine_models import Subject, cached_operations, reference_operations
from sam_clock import Clock
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.limits import Limits
from sightline_ensemble.lisa.model import Llama
from sightline_ensemble.lisa.sequence import Event
from sightline_ensemble.lisa.sequence import Request as Asked
from torch import Tensor


class Absent(Exception):
    """This machine cannot run the technique."""


# --- (a) the reference's way --------------------------------------------------------------------------------------------
@torch.inference_mode()
def reference(of: Subject, new: int) -> list[int]:
    """No cache: for each token the picture, the whole sequence and all logits again, as LISA is released, in bf16; the tokens."""
    model, ids = of.plain, prompt_ids(of)
    for _ in range(new):
        if of.vision:
            of.vision()
        row = torch.tensor(ids, device=of.device)
        x = model.embed(row.clamp(min=0))
        x[row == -1] = model.project(torch.from_numpy(of.features).to(of.device)).to(x.dtype)
        ids.append(int(model.logits(model.forward_train(x.unsqueeze(0))[0])[-1].argmax()))
    return ids[-new:]


def prompt_ids(of: Subject) -> list[int]:
    from sightline_ensemble.lisa.prompt import Prompter

    return Prompter(of.config, of.tokenizer).build(of.question, (), len(of.features))


# --- (b), (c) our engine ------------------------------------------------------------------------------------------------
@dataclass
class Ours:
    """The engine over a model; `close` it."""

    of: Subject
    engine: Engine

    @classmethod
    def over(cls, of: Subject, model: Llama, running: int, threads: int) -> Ours:
        tokens = (len(prompt_ids(of)) + 96) * running
        chosen = Limits(running=running, chunk=Limits.of(of.device).chunk, threads=threads, cache_tokens=tokens)
        return cls(of, Engine(model, of.tokenizer, limits=chosen))

    def requests(self, streams: int, new: int) -> list[Event]:
        """Whole requests that come together: the picture, the prompt, `new` tokens; no prompt is like another."""
        waiting = []
        for i in range(streams):
            if self.of.vision:
                self.of.vision()
            features = self.of.features + np.float32(1e-3 * (i + 1) + time.monotonic_ns() % 1000 * 1e-6)
            waiting.append(Final())
            self.engine.submit(Asked(features, self.of.question, max_tokens=new), waiting[-1])
        return [each.wait() for each in waiting]

    @torch.inference_mode()
    def token(self, batch: int) -> Callable[[], Tensor]:
        """A step of the runner and the choice of a token, in the middle of an answer; nothing else runs."""
        runner, length = self.engine.runner, len(prompt_ids(self.of)) + 24
        pages = -(-length // 16)
        tables = torch.arange(batch * pages, device=runner.device).view(batch, pages) % runner.pages
        positions = torch.full((batch,), length - 1, device=runner.device)
        tokens = torch.full((batch,), 5, device=runner.device)
        step = runner.graphs.run if runner.graphs and runner.graphs.fits(batch, pages) else runner._token

        def run() -> Tensor:
            with torch.inference_mode():
                return runner.model.logits(step(tokens, positions, tables)).argmax(-1)

        return run

    def prompt(self, length: int) -> Callable[[], Tensor]:
        """A prompt of so many tokens, in the engine's chunks."""
        from sightline_ensemble.lisa.scheduler import Prefill
        from sightline_ensemble.lisa.sequence import Sequence

        runner, chunk = self.engine.runner, self.engine.limits.chunk
        asked = Asked(self.of.features, "")
        table = list(range(-(-length // 16)))
        sequence = Sequence(asked, print, [5] * length, length, 1, b"", 0, table=table)

        def run() -> Tensor:
            hidden, sequence.computed = torch.empty(0), 0
            while sequence.fresh:
                count = min(chunk, sequence.fresh)
                hidden = runner.run(Prefill(sequence, count))
                sequence.computed += count
            return hidden

        return run

    def close(self) -> None:
        self.engine.close()


class Final:
    """Waits for a request's end; RuntimeError where it failed."""

    def __init__(self) -> None:
        self.done, self.event = threading.Event(), None

    def __call__(self, event: Event) -> None:
        if event.final:
            self.event = event
            self.done.set()

    def wait(self) -> Event:
        self.done.wait()
        if self.event.status:
            raise RuntimeError(self.event.status)
        return self.event


# --- other libraries ----------------------------------------------------------------------------------------------------
def transformers_generate(of: Subject, batch: int, new: int, four_bit: bool) -> Callable[[], Tensor]:
    """`generate` of transformers over random weights of the same shapes, bf16, with its cache; NF4 by bitsandbytes.

    Raises Absent where a package is not installed.
    """
    for package in ("transformers", *(("bitsandbytes",) if four_bit else ())):
        if find_spec(package) is None:
            raise Absent(f"{package} is not installed")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = of.config
    shape = LlamaConfig(
        hidden_size=config.hidden_size, intermediate_size=config.intermediate_size, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads, vocab_size=config.vocab_size, eos_token_id=None,
    )  # fmt: skip
    with torch.device(of.device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(shape).eval()
        torch.set_default_dtype(torch.float32)
    if four_bit:
        nf4(model, of.device)
    ids = torch.full((batch, len(prompt_ids(of))), 5, device=of.device)
    return lambda: model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)


def nf4(model: torch.nn.Module, device: torch.device) -> None:
    """Every linear layer but the head, in place."""
    import bitsandbytes

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                made = bitsandbytes.nn.Linear4bit(
                    layer.in_features, layer.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
                )
                made.weight = bitsandbytes.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                setattr(parent, name, made.to(device))


# --- what figures are held to ---------------------------------------------------------------------------------------------
def copied(clock: Clock) -> float:
    """GB/s of a large copy, read plus written."""
    if clock.copy:
        return clock.copy
    source = torch.ones(2**28, dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2e-6 * source.nbytes / min(clock.times(lambda: target.copy_(source)))


def fold(of: Subject, new: int) -> str:
    """How many operations a request takes, both ways."""
    prompt = len(prompt_ids(of))
    theirs, ours = reference_operations(of, prompt, new), cached_operations(of, prompt, new)
    counts = f"{1e-12 * theirs:.4g} T operations the reference's way, {1e-12 * ours:.4g} T here"
    return f"{of.name}, {prompt} + {new} tokens: {counts}, {theirs / ours:.1f}-fold fewer"
