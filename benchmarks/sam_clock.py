"""Time, ceilings and memory of one device, for benchmarks/sam.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

import torch
from harness import machine
from torch import Tensor

SIDE = {"cuda": 8192, "cpu": 2048}  # of the square matrices whose product is the ceiling
COPY = 2**31  # bytes
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Clock:
    """`fewest` and `most`: timed runs of one measurement; `seconds`: what one should take about."""

    device: torch.device
    fewest: int
    most: int
    seconds: float
    known: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: str) -> Clock:
        """kind: "cuda" or "cpu"."""
        if kind == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
            return cls(torch.device("cuda"), 5, 100, 0.5)
        return cls(torch.device("cpu"), 2, 20, 0.5)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def name(self) -> str:
        return f"{torch.cuda.get_device_name()}, {machine()}" if self.cuda else machine()

    def finished(self, step: Callable[[], Tensor]) -> Tensor:
        """What the step gives, when it is really there."""
        found = step()
        if self.cuda:
            torch.cuda.synchronize()
        return found

    def once(self, step: Callable[[], object]) -> float:
        """Milliseconds of one run until its result is there."""
        if not self.cuda:
            begin = time.perf_counter()
            step()
            return 1e3 * (time.perf_counter() - begin)
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        step()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)

    def times(self, step: Callable[[], object]) -> list[float]:
        """Milliseconds of several runs; the caller has warmed up."""
        first = self.once(step)
        count = max(self.fewest, min(self.most, int(1e3 * self.seconds / max(first, 1e-3))))
        return [self.once(step) for _ in range(count)] if self.cuda else [first, *(self.once(step) for _ in range(count - 1))]

    def median(self, step: Callable[[], object]) -> tuple[float, int]:
        """Median milliseconds, and of how many runs."""
        found = self.times(step)
        return median(found), len(found)

    def ceiling(self, dtype: str) -> float:
        """TFLOP/s of a large matrix product of random numbers: the fastest of several runs, measured once."""
        if dtype not in self.known:
            side = SIDE[self.device.type]
            a, b = (torch.randn(side, side, device=self.device).to(DTYPES[dtype]) for _ in range(2))
            self.once(lambda: a @ b)
            self.known[dtype] = 2e-9 * side**3 / min(self.times(lambda: a @ b))
        return self.known[dtype]

    @cached_property
    def copy(self) -> float | None:
        """GB/s of a large copy inside the GPU, read plus written; None on a CPU."""
        if not self.cuda:
            return None
        source = torch.randint(0, 256, (COPY,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        self.once(lambda: target.copy_(source))
        return 2e-6 * COPY / min(self.times(lambda: target.copy_(source)))

    def free(self) -> int | None:
        """Bytes of memory to be had on a CPU; a GPU says itself when it is full."""
        if self.cuda:
            torch.cuda.empty_cache()
            return None
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        return 1024 * int(line.split()[1])

    def captured(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The step as one CUDA graph: its kernels are launched together."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
