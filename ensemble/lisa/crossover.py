"""From how many rows on a 4-bit layer is better turned into bf16 for its product: measured on this machine, not guessed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .int4 import NEVER, Int4Linear, unpacked

log = logging.getLogger(__name__)
ROWS = (8, 16, 32, 64, 128, 256, 512, 1024)
Unpack = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Timing:
    """Seconds of one product of so many rows: by the 4-bit kernel; unpacked and multiplied."""

    rows: int
    kernel: float
    dense: float


def timings(layer: Int4Linear, q4: Tensor, unpack: Unpack, rows: Sequence[int] = ROWS) -> list[Timing]:
    """`q4`: the layer's nibbles [out, in / 2], on its device."""
    found = []
    for count in rows:
        x = torch.randn(count, layer.inputs, device=q4.device).to(torch.bfloat16)
        found.append(Timing(count, seconds(lambda x=x: layer(x), q4), seconds(lambda x=x: F.linear(x, unpack(q4, layer.sz)), q4)))
    return found


def first_dense(found: Sequence[Timing]) -> int:
    """The fewest rows from which on unpacking is always faster; NEVER where it is not at the most."""
    rows = NEVER
    for timing in reversed(found):
        if timing.dense >= timing.kernel:
            break
        rows = timing.rows
    return rows


@torch.inference_mode()
def settle(model: nn.Module) -> int:
    """Measures the largest 4-bit layer, tells all of them, and frees the nibbles where they are of no use; the rows."""
    layers = [layer for layer in model.modules() if isinstance(layer, Int4Linear) and layer.q4 is not None]
    if not layers:
        return NEVER
    largest = max(layers, key=lambda layer: layer.bytes)
    unpack = compiled(largest)
    rows = first_dense(timings(largest, largest.q4, unpack))
    for layer in layers:
        layer.dense_from, layer.unpack = rows, unpack
        if rows == NEVER:
            layer.q4 = None
    return rows


def compiled(layer: Int4Linear) -> Unpack:
    """Unpacking as one kernel, where this machine can compile."""
    try:
        made = torch.compile(unpacked)
        made(layer.q4, layer.sz)
        return made
    except Exception as error:
        log.warning("unpacking 4-bit weights is not compiled: %s", type(error).__name__)
        return unpacked


def seconds(run: Callable[[], Tensor], near: Tensor, times: int = 7) -> float:
    """Median of several runs on the device of `near`, after one."""
    wait = torch.cuda.synchronize if near.is_cuda else lambda: None
    run()
    wait()
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        wait()
        found.append(time.perf_counter() - begin)
    return median(found)
