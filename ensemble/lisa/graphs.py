"""A token for several sequences as one CUDA graph: its kernels are launched together (nano-vllm's scheme).

A graph has fixed shapes: one for each batch and each width of the block tables below, both rounded up. What is padded reads
and writes a page of its own, which belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

BATCHES = (1, 2, 4, 8, 16, 32)
FEWEST_PAGES = 16  # of a table; then twice as many, up to a full context

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""tokens int64 [B], positions int64 [B], pages int64 [B, P] -> hidden [B, H]"""


@dataclass(frozen=True)
class Captured:
    """One graph and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor
    positions: Tensor
    tables: Tensor
    hidden: Tensor


class Graphs:
    """Every shape is captured at once, the largest first: the others reuse its memory.

    Args:
        step: computes on the GPU only and asks it nothing.
        most: sequences at a time.
        pages: of a full context.
        scratch: the page of nobody.
    """

    def __init__(self, step: Step, most: int, pages: int, scratch: int, device: torch.device) -> None:
        self.scratch, self.captured, pool = scratch, {}, None
        self.batches = [batch for batch in BATCHES if batch < most] + [min(most, BATCHES[-1])]
        self.widths = [pages]
        while self.widths[0] > FEWEST_PAGES:
            self.widths.insert(0, max(FEWEST_PAGES, self.widths[0] // 2))
        for batch, width in product(reversed(self.batches), reversed(self.widths)):
            tokens, positions = (torch.zeros(batch, dtype=torch.int64, device=device) for _ in range(2))
            tables = torch.full((batch, width), scratch, dtype=torch.int64, device=device)
            step(tokens, positions, tables)  # a first run outside of the graph: libraries set themselves up
            torch.cuda.synchronize(device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                hidden = step(tokens, positions, tables)
            pool = pool or graph.pool()
            self.captured[batch, width] = Captured(graph, tokens, positions, tables, hidden)

    def fits(self, batch: int, width: int) -> bool:
        return batch <= self.batches[-1] and width <= self.widths[-1]

    def run(self, tokens: Tensor, positions: Tensor, tables: Tensor) -> Tensor:
        """As `Step`; the result is overwritten by the next run."""
        batch, width = tables.shape
        chosen = self.captured[self._up(self.batches, batch), self._up(self.widths, width)]
        chosen.tokens.zero_()[:batch] = tokens
        chosen.positions.zero_()[:batch] = positions
        chosen.tables.fill_(self.scratch)[:batch, :width] = tables
        chosen.graph.replay()
        return chosen.hidden[:batch]

    @staticmethod
    def _up(sizes: list[int], size: int) -> int:
        return next(each for each in sizes if each >= size)
