"""4 and 8 bits for the weights of a linear layer, in the stored forms of `ensemble/lisa/int4.py`.

The 4-bit methods, from the plainest to the best:
rounded: scale and zero span a group's smallest and largest weight.
searched: scale and zero that make the squared error of the weights small, by narrower spans and least squares in turn.
weighted: the same, each input's error weighted by how strong that input is (as in AWQ, arXiv 2306.00978).
gptq: scales as weighted; then each column's error is taken back by the columns after it (arXiv 2210.17323), strongest input first.

Shapes: O outputs, I inputs, g group, N = I / g.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .stream_file import Form

GROUPS = (128, 64, 32)  # what torch's kernels know, but for 256
WIDTH = 32  # inputs of the 8-bit kernel come in whole vectors
_LEVELS, _ZERO = 15, 8
_SPANS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_REFINED = 3  # rounds of least squares after the best span
_ROWS = 1024  # at a time: bounds the search's memory
_DAMPING, _BLOCK = 0.01, 128

Grid = tuple[Tensor, Tensor]
"""Scale and zero [O, N], float32 with a bfloat16's digits; a weight is (code - 8) scale + zero."""
Coded = tuple[Tensor, Grid]
"""Codes uint8 [O, I], 0 to 15, and their grid."""
Method = Callable[[Tensor, int, Tensor], Coded]
"""weight float32 [O, I], group, second moments of the inputs float32 [I, I] -> codes and grid."""


def group_of(inputs: int, wanted: int) -> int:
    """The largest group up to `wanted` that divides the inputs; the smallest there is where none does."""
    return next((g for g in GROUPS if g <= wanted and inputs % g == 0), GROUPS[-1])


def packable(outputs: int) -> bool:
    """Whether the 4-bit kernel takes a layer of so many outputs."""
    return outputs % 16 == 0


def int4(weight: Tensor, wanted: int, method: str, moments: Tensor) -> dict[str, Tensor]:
    """q4 and sz of a weight [O, I]; inputs that no group divides get columns of zeros."""
    group = group_of(weight.shape[1], wanted)
    extra = -weight.shape[1] % group
    codes, (scale, zero) = METHODS[method](F.pad(weight, (0, extra)), group, F.pad(moments, (0, extra, 0, extra)))
    return {"q4": codes[:, 0::2] | (codes[:, 1::2] << 4), "sz": torch.stack([scale.T, zero.T], -1).bfloat16()}


def int4_forms(outputs: int, inputs: int, wanted: int) -> dict[str, Form]:
    """Types and shapes of what `int4` gives."""
    group = group_of(inputs, wanted)
    groups = -(-inputs // group)
    return {"q4": (torch.uint8, (outputs, groups * group // 2)), "sz": (torch.bfloat16, (groups, outputs, 2))}


def int8(weight: Tensor) -> dict[str, Tensor]:
    """q8 and s8 of a weight [O, I], columns of zeros behind it up to whole vectors."""
    codes, scale = rows_int8(weight)
    return {"q8": F.pad(codes, (0, -weight.shape[1] % WIDTH)), "s8": scale}


def int8_forms(outputs: int, inputs: int) -> dict[str, Form]:
    """Types and shapes of what `int8` gives."""
    return {"q8": (torch.int8, (outputs, inputs + -inputs % WIDTH)), "s8": (torch.bfloat16, (outputs,))}


def rows_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [O, I] -> int8 rows and their bf16 scales; the codes are found with the rounded scale."""
    scale = (weight.abs().amax(1) / 127).bfloat16()
    scale = torch.where(scale.float() * 127 < weight.abs().amax(1), (scale.float() * (1 + 2**-8)).bfloat16(), scale)
    return (weight / scale.float().unsqueeze(1).clamp_min(1e-30)).round().clamp(-127, 127).to(torch.int8), scale


def decoded(coded: Coded) -> Tensor:
    """The weight [O, I] that codes stand for."""
    codes, grid = coded
    return _decode(codes.float(), *_wide(grid, codes.shape[1]))


# --- methods ------------------------------------------------------------------------------------------------------------
def rounded(weight: Tensor, group: int, moments: Tensor) -> Coded:
    parts = weight.unflatten(1, (-1, group))
    return _codes(weight, grid := _span(parts, 1.0)), grid


def searched(weight: Tensor, group: int, moments: Tensor) -> Coded:
    grid = search(weight, group, torch.ones(weight.shape[1]))
    return _codes(weight, grid), grid


def weighted(weight: Tensor, group: int, moments: Tensor) -> Coded:
    grid = search(weight, group, moments.diagonal())
    return _codes(weight, grid), grid


def gptq(weight: Tensor, group: int, moments: Tensor) -> Coded:
    grid = search(weight, group, moments.diagonal())
    order = moments.diagonal().argsort(descending=True, stable=True)
    upper, owner = _inverse_root(moments[order][:, order]), order // group
    left, codes = weight[:, order].clone(), torch.empty(weight.shape, dtype=torch.uint8)
    for start in range(0, len(order), _BLOCK):
        end = min(start + _BLOCK, len(order))
        errors = torch.empty(len(weight), end - start)
        for i in range(start, end):
            scale, zero = (part[:, owner[i]] for part in grid)
            code = _encode(left[:, i], scale, zero)
            codes[:, order[i]] = code.to(torch.uint8)
            errors[:, i - start] = (left[:, i] - _decode(code, scale, zero)) / upper[i, i]
            left[:, i:end] -= errors[:, i - start, None] * upper[i, i:end]
        left[:, end:] -= errors @ upper[start:end, end:]
    return codes, grid


METHODS: dict[str, Method] = {"rounded": rounded, "searched": searched, "weighted": weighted, "gptq": gptq}


def search(weight: Tensor, group: int, importance: Tensor) -> Grid:
    """The grid of the smallest error found, errors weighted by `importance` [I] of the inputs."""
    importance = importance / importance.mean().clamp_min(1e-30) + 1e-4  # an input that was never seen still counts a little
    share = importance.view(1, -1, group)
    parts = [_search(rows.unflatten(1, (-1, group)), share) for rows in weight.split(_ROWS)]
    return torch.cat([scale for scale, _ in parts]), torch.cat([zero for _, zero in parts])


def _search(parts: Tensor, share: Tensor) -> Grid:
    """[O, N, g] -> the best grid of each group."""
    best = _span(parts, 1.0)
    least = _error(parts, best, share)
    for span in _SPANS[1:]:
        best, least = _better(parts, share, best, least, _span(parts, span))
    for _ in range(_REFINED):
        best, least = _better(parts, share, best, least, _fitted(parts, share, best))
    return best


def _better(parts: Tensor, share: Tensor, best: Grid, least: Tensor, other: Grid) -> tuple[Grid, Tensor]:
    error = _error(parts, other, share)
    gain = error < least
    return (torch.where(gain, other[0], best[0]), torch.where(gain, other[1], best[1])), torch.where(gain, error, least)


def _error(parts: Tensor, grid: Grid, share: Tensor) -> Tensor:
    scale, zero = (part.unsqueeze(-1) for part in grid)
    return ((_decode(_encode(parts, scale, zero), scale, zero) - parts).square() * share).sum(-1)


def _span(parts: Tensor, part: float) -> Grid:
    """The grid over `part` of the range between a group's smallest and largest weight."""
    low, high = parts.amin(-1), parts.amax(-1)
    middle, half = (low + high) / 2, (high - low) / 2 * part
    scale = _short((2 * half / _LEVELS).clamp_min(1e-8))
    return scale, _short(middle - (_LEVELS / 2 - _ZERO) * scale)


def _fitted(parts: Tensor, share: Tensor, grid: Grid) -> Grid:
    """Scale and zero by weighted least squares for the codes that a grid gives."""
    scale, zero = (part.unsqueeze(-1) for part in grid)
    steps = _encode(parts, scale, zero) - _ZERO
    total = share.sum(-1)
    step, value = (steps * share).sum(-1) / total, (parts * share).sum(-1) / total
    away = steps - step.unsqueeze(-1)
    spread = (away.square() * share).sum(-1)
    slope = (away * parts * share).sum(-1) / spread.clamp_min(1e-30)
    slope = _short(torch.where((spread > 0) & (slope > 1e-8), slope, grid[0]))
    return slope, _short(value - slope * step)


def _inverse_root(moments: Tensor) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped moments; damped more where that is not enough."""
    size, mean, damping = len(moments), float(moments.diagonal().mean()) or 1.0, _DAMPING
    while True:
        damped = moments.clone()
        damped.diagonal().add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and torch.isfinite(upper).all():
                return upper
        damping *= 10
        assert damping < 1e6, f"moments of {size} inputs have no inverse"


def _encode(weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return ((weight - zero) / scale + _ZERO).round().clamp(0, _LEVELS)


def _decode(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return (codes - _ZERO) * scale + zero


def _codes(weight: Tensor, grid: Grid) -> Tensor:
    return torch.cat(
        [_encode(rows, *_wide(part, weight.shape[1])).to(torch.uint8) for rows, part in zip(weight.split(_ROWS), _split(grid), strict=True)]
    )


def _split(grid: Grid) -> list[Grid]:
    return list(zip(grid[0].split(_ROWS), grid[1].split(_ROWS), strict=True))


def _wide(grid: Grid, inputs: int) -> Grid:
    """The grid of each weight [O, I]."""
    return tuple(part.repeat_interleave(inputs // part.shape[1], 1) for part in grid)  # type: ignore[return-value]


def _short(value: Tensor) -> Tensor:
    """As bfloat16, the type that grids are stored in, would have it."""
    return value.bfloat16().float()
