"""How much memory the key-value cache may take: what is free once the weights are there and the largest steps have run."""

from __future__ import annotations

from pathlib import Path

import torch

from .cache import BLOCK, Store
from .crossover import settle
from .int4 import NEVER, Int4Linear
from .limits import Limits
from .model import Llama
from .runner import Runner, resident_bytes

CPU_SHARE, CPU_MOST = 1 / 8, 256 * 2**20  # of the memory available; more would hold what nobody asks for again
GPU_SHARE = 0.5  # of what is free: SAM and the vision encoder live on the same card


def fitted(model: Llama, limits: Limits) -> Runner:
    """A runner whose cache holds `cache_tokens` positions, or what the free memory allows; never less than one full context.

    Raises MemoryError where there is no room for that.
    """
    settle(model)
    runner = Runner(model, pages_of(model.config.context))
    if limits.cache_tokens:
        runner.resize(pages_of(max(limits.cache_tokens, model.config.context)))
    else:
        runner.resize(_by_memory(runner, limits))
    if runner.device.type == "cuda":
        runner.capture(limits.running)
    return runner


def pages_of(positions: int) -> int:
    return -(-positions // BLOCK)


def _by_memory(runner: Runner, limits: Limits) -> int:
    least, most = pages_of(runner.config.context), limits.running * pages_of(runner.config.context)
    page = Store.bytes_of(runner.config, runner.dtype, 1)
    budget = _gpu_budget(runner, limits) if runner.device.type == "cuda" else min(CPU_SHARE * available(), CPU_MOST)
    if least * page > (budget if runner.device.type == "cuda" else available()):
        raise MemoryError(
            f"key-value cache: one sequence of {runner.config.context} tokens needs {least * page / 1e9:.2f} GB, "
            f"expected as much free memory, found {budget / 1e9:.2f} GB"
        )
    return max(least, min(most, int(budget // page)))


def available() -> int:
    """Bytes that programs may still take, of the machine's memory."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return 1024 * int(line.split()[1])


def _gpu_budget(runner: Runner, limits: Limits) -> float:
    """A share of what is free after the largest steps: their temporaries stay free, once for steps and once for graphs."""
    held = torch.cuda.memory_allocated(runner.device)
    torch.cuda.reset_peak_memory_stats(runner.device)
    runner.largest(limits.chunk, limits.running)
    peak = torch.cuda.max_memory_allocated(runner.device) - held
    torch.cuda.empty_cache()
    return GPU_SHARE * (torch.cuda.mem_get_info(runner.device)[0] - 2 * peak)


def describe(runner: Runner, running: int) -> str:
    """What the large linear layers take, and how many sequences the cache holds."""
    held, plain = resident_bytes(runner.model)
    share = f", {held / plain:.3f} of the {plain / 1e6:.1f} MB of bf16" if held else ""
    rows = next((layer.dense_from for layer in runner.model.modules() if isinstance(layer, Int4Linear)), NEVER)
    dense = "" if rows == NEVER else f", unpacked for {rows} rows or more"
    weights = f"4-bit weights {held / 1e6:.1f} MB resident{share}{dense}; " if held else ""
    size, positions = Store.bytes_of(runner.config, runner.dtype, runner.pages) / 1e6, runner.pages * BLOCK
    full, together = positions // runner.config.context, min(running, runner.pages)
    return (
        f"{runner.config.num_layers} layers on {runner.device}; {weights}cache {positions} tokens, {size:.1f} MB: "
        f"{full} sequences of {runner.config.context} tokens or {together} of {positions // together}"
    )
