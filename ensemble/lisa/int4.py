"""Linear layers by what the artefact stores: 4-bit in groups, 8-bit by row, or plain.

Stored forms, independent of the machine (they are packed for it when loaded):
4-bit: `<name>.q4` uint8 [out, in / 2] (even input in the low nibble), `<name>.sz` bf16 [in / g, out, 2]; weight = (q - 8) * s + z.
8-bit: `<name>.q8` int8 [out, in], `<name>.s8` bf16 [out]; weight = q * s.
Where no group (or no whole vector of the 8-bit kernel) divides the inputs, both have columns of zeros behind them.
Plain: `<name>.weight` [out, in]. The embedding: `<name>.q8` int8 [V, H] with `<name>.d8` fp16 [V, H / 32], or `<name>.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
NEVER = 1 << 30  # rows


class Int4Linear(nn.Module):
    """Weights stay 4-bit in memory. Activations are bf16: with fp32 the kernel falls back to scalar code, 50 times slower.

    From `dense_from` rows on they are turned into bf16 for the product, from `q4`, which a GPU keeps beside the kernel's own
    layout until `crossover.py` has measured whether that is ever faster. A CPU never does it: its kernel gives a row the
    same bits whatever rows are computed with it, and answers then do not depend on what a prompt shares with others.
    """

    def __init__(self, q4: Tensor, sz: Tensor, device: torch.device) -> None:
        super().__init__()
        self.outputs, self.inputs = q4.shape[0], 2 * q4.shape[1]
        self.group = self.inputs // sz.shape[0]
        self.cpu = device.type == "cpu"
        self.packed, self.sz = pack(q4, device), own(sz.to(torch.bfloat16), device)
        self.q4 = None if self.cpu else own(q4, device)
        self.dense_from, self.unpack = NEVER, unpacked

    @property
    def bytes(self) -> int:
        return self.packed.nbytes + self.sz.nbytes + (0 if self.q4 is None else self.q4.nbytes)

    def forward(self, x: Tensor) -> Tensor:
        if self.q4 is not None and x.numel() >= self.dense_from * self.inputs:
            return F.linear(x, self.unpack(self.q4, self.sz))
        op = torch.ops.aten._weight_int4pack_mm_for_cpu if self.cpu else torch.ops.aten._weight_int4pack_mm
        x = widened(x, self.inputs)
        if x.dim() == 2:
            return op(x, self.packed, self.group, self.sz)
        return op(x.flatten(0, -2), self.packed, self.group, self.sz).view(*x.shape[:-1], self.outputs)


class Int8Linear(nn.Module):
    def __init__(self, q8: Tensor, s8: Tensor, device: torch.device) -> None:
        super().__init__()
        self.q8, self.s8 = own(q8, device), own(s8.to(torch.bfloat16), device)

    @property
    def bytes(self) -> int:
        return self.q8.nbytes + self.s8.nbytes

    def row(self, i: int) -> Tensor:
        """fp32 [in]"""
        return self.q8[i].float() * self.s8[i].float()

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(widened(x, self.q8.shape[1]), self.q8, self.s8)


class PlainLinear(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    @property
    def bytes(self) -> int:
        return self.weight.nbytes

    def row(self, i: int) -> Tensor:
        """fp32 [in]"""
        return self.weight[i].float()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    """Rows of a table kept as 8-bit blocks of 32 (exactly the GGUF's Q8_0): ids [...] -> [..., H] in `dtype`."""

    def __init__(self, q8: Tensor, d8: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.q8, self.d8, self.dtype = own(q8, device), own(d8, device), dtype

    def forward(self, ids: Tensor) -> Tensor:
        q, d = F.embedding(ids, self.q8), F.embedding(ids, self.d8)
        return (q.unflatten(-1, (d.shape[-1], -1)).float() * d.float().unsqueeze(-1)).flatten(-2).to(self.dtype)


class PlainEmbedding(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


def widened(x: Tensor, inputs: int) -> Tensor:
    """x with zeros behind it up to the stored inputs."""
    return F.pad(x, (0, inputs - x.shape[-1])) if x.shape[-1] < inputs else x


def own(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy in memory of our own: a mapped file's tensors lie at any offset, and the int8 kernel dies on unaligned rows."""
    return tensor.to(device, copy=True).contiguous()


def pack(q4: Tensor, device: torch.device) -> Tensor:
    """Nibbles [out, in / 2] -> the layout of this device's kernel."""
    if device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles(q4).int(), 1)
    swapped = (q4 << 4) | (q4 >> 4)  # the GPU op reads the even input from the high nibble
    return torch.ops.aten._convert_weight_to_int4pack(swapped.to(device), 8)


def nibbles(q4: Tensor) -> Tensor:
    """uint8 [out, in / 2] -> values 0 to 15, uint8 [out, in]."""
    return torch.stack([q4 & 15, q4 >> 4], -1).flatten(1)


def unpacked(q4: Tensor, sz: Tensor) -> Tensor:
    """Nibbles [out, in / 2] and sz [in / g, out, 2] -> the weight, bf16 [out, in]."""
    q = nibbles(q4).view(q4.shape[0], sz.shape[0], -1).to(torch.bfloat16) - 8
    scale, zero = sz.transpose(0, 1).unsqueeze(2).unbind(-1)
    return torch.addcmul(zero, q, scale).flatten(1)


def dense(tensors: Tensors, name: str) -> Tensor:
    """The weight [out, in] that the served layer multiplies by, fp32."""
    if f"{name}.q4" in tensors:
        q, sz = nibbles(tensors[f"{name}.q4"]).float(), tensors[f"{name}.sz"].float()
        s, z = (sz[..., i].T.repeat_interleave(q.shape[1] // sz.shape[0], 1) for i in (0, 1))
        return (q - 8) * s + z
    if f"{name}.d8" in tensors:
        q, d = tensors[f"{name}.q8"], tensors[f"{name}.d8"].float()
        return (q.unflatten(-1, (d.shape[-1], -1)).float() * d.unsqueeze(-1)).flatten(1)
    if f"{name}.q8" in tensors:
        return tensors[f"{name}.q8"].float() * tensors[f"{name}.s8"].float().unsqueeze(1)
    return tensors[f"{name}.weight"].float()


def load_linear(tensors: Tensors, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The layer in the form stored. Raises KeyError where the artefact lacks it."""
    if f"{name}.q4" in tensors:
        return Int4Linear(tensors[f"{name}.q4"], tensors[f"{name}.sz"], device)
    if f"{name}.q8" in tensors:
        return Int8Linear(tensors[f"{name}.q8"], tensors[f"{name}.s8"], device)
    return PlainLinear(tensors[f"{name}.weight"].to(device, dtype))


def load_embedding(tensors: Tensors, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    if f"{name}.q8" in tensors:
        return Embedding(tensors[f"{name}.q8"], tensors[f"{name}.d8"], dtype, device)
    return PlainEmbedding(tensors[f"{name}.weight"].to(device, dtype))
