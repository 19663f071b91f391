"""Keys and values in pages of 16 positions, shared between sequences with the same beginning.

A full page is known by a hash chained over everything before it (tokens and the picture), as in vLLM; a page nobody uses
keeps its content until it is needed for something else. Answers do not depend on hits: every kernel used on the way to a
page gives the same bits for a row whatever rows are computed with it, in bf16 on a CPU (tests/unit/test_lisa_batch.py).
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict

import torch
from torch import Tensor

from .config import LisaConfig
from .sequence import Sequence

BLOCK = 16


class Pages:
    """Which page belongs to whom: reference counts, free pages in order of release, hashes of full pages."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.references = [0] * count
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        self.by_hash: dict[bytes, int] = {}
        self.hash_of: dict[int, bytes] = {}
        self.hits = 0

    def share(self, sequence: Sequence) -> None:
        """Give a sequence without pages those that already hold its beginning, never its last position."""
        parent = b""
        for start in range(0, (len(sequence.ids) - 1) // BLOCK * BLOCK, BLOCK):
            parent = page_hash(parent, sequence.ids, start, sequence.digest)
            page = self.by_hash.get(parent)
            if page is None:
                return
            self._hold(page)
            sequence.table.append(page)
            sequence.hashes.append(parent)
            sequence.computed += BLOCK
            self.hits += 1

    def grow(self, sequence: Sequence, positions: int) -> bool:
        """Pages for the first `positions` positions; False (and nothing changed) where there are too few."""
        missing = -(-positions // BLOCK) - len(sequence.table)
        if missing > len(self.free):
            return False
        for _ in range(missing):
            page = next(iter(self.free))
            self._forget(page)
            self._hold(page)
            sequence.table.append(page)
        return True

    def publish(self, sequence: Sequence) -> None:
        """Make the full pages just computed known to others."""
        for index in range(len(sequence.hashes), sequence.computed // BLOCK):
            parent = sequence.hashes[-1] if sequence.hashes else b""
            key = page_hash(parent, sequence.ids, index * BLOCK, sequence.digest)
            sequence.hashes.append(key)
            if key not in self.by_hash:
                self.by_hash[key], self.hash_of[sequence.table[index]] = sequence.table[index], key

    def release(self, sequence: Sequence) -> None:
        """Take every page back; the last ones first, for a beginning is worth keeping longest."""
        for page in reversed(sequence.table):
            self.references[page] -= 1
            if not self.references[page]:
                self.free[page] = None
        sequence.table, sequence.hashes, sequence.computed = [], [], 0

    def _hold(self, page: int) -> None:
        self.references[page] += 1
        self.free.pop(page, None)

    def _forget(self, page: int) -> None:
        if (key := self.hash_of.pop(page, None)) is not None:
            del self.by_hash[key]


def page_hash(parent: bytes, ids: list[int], start: int, digest: bytes) -> bytes:
    """Identity of the page that begins at `start`: what precedes it, its tokens, the picture and its place in the picture."""
    tokens = ids[start : start + BLOCK]
    picture = digest + struct.pack("<q", ids[:start].count(-1)) if -1 in tokens else b""
    return hashlib.blake2b(parent + struct.pack(f"<{BLOCK}q", *tokens) + picture, digest_size=16).digest()


class Store:
    """The tensors: one row of keys and values [2 * kv_heads * d] for each layer and position; a last page belongs to nobody."""

    def __init__(self, config: LisaConfig, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        self.kv_heads, self.side = config.num_kv_heads, config.head_dim
        width = 2 * config.num_kv_heads * config.head_dim
        shape = (config.num_layers, (pages + 1) * BLOCK, width)
        self.rows = torch.empty(shape, dtype=dtype, device=device)
        self.rows.zero_()  # garbage times a mask of 0 could be NaN; written now, the memory is there from the start and grows no more

    @staticmethod
    def bytes_of(config: LisaConfig, dtype: torch.dtype, pages: int) -> int:
        return config.num_layers * pages * BLOCK * 2 * config.num_kv_heads * config.head_dim * dtype.itemsize

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """k, v [N, kv_heads, d] to rows `slots` [N]."""
        self.rows[layer].index_copy_(0, slots, torch.cat([k.flatten(1), v.flatten(1)], 1))

    def read(self, layer: int, slots: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Rows `slots` [B * T] -> k, v [B, kv_heads, T, d] (views)."""
        both = self.rows[layer].index_select(0, slots).view(batch, -1, 2, self.kv_heads, self.side)
        return both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)


def slots_of(table: list[int], end: int) -> list[int]:
    """Rows of the pages that hold positions 0 to `end`."""
    return [page * BLOCK + i for page in table[: -(-end // BLOCK)] for i in range(BLOCK)]
