"""COCO's compressed run-length encoding of a mask, decoded without pycocotools."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def decode(size: tuple[int, int], counts: str) -> npt.NDArray[np.uint8]:
    """UINT8 mask [H, W] of 0 and 1. `size` is (H, W). ValueError where the runs do not cover exactly that size."""
    runs = _runs(counts)
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError(f"the run lengths do not cover a mask of {size[0]} x {size[1]}")
    values = np.arange(len(runs), dtype=np.uint8) & 1  # runs alternate, beginning with background
    return np.ascontiguousarray(np.repeat(values, runs).reshape(size[1], size[0]).T)  # COCO goes down the columns


def _runs(counts: str) -> list[int]:
    """Numbers of 5 bits a character, low bits first, sign in the last one; from the fourth on as a difference to the one two before."""
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError("not a compressed run-length encoding")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the run-length encoding is cut off")
    return runs
