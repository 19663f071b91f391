"""The language model of LISA in plain torch: Llama with fused projections, a picture projector and the `[SEG]` head.

Sources: Llama (Touvron et al. 2023), LISA (dvlab-research/LISA, 3cb2d43). One class for serving and training; what differs
is only the linear layer that the factory makes and who keeps the keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from .config import LisaConfig

LinearFactory = Callable[[str, int, int], nn.Module]
"""name ("layers.0.qkv"), inputs, outputs -> a module [..., inputs] -> [..., outputs]"""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""layer, q [..., heads, d], k and v [..., kv_heads, d] (rotated) -> [..., heads * d]"""

FEWEST_ROWS = 4  # of fewer rows attention and fp32 products have other bits than of the same rows among more
TARGETS = ("qkv", "o", "gate_up", "down")


class Adapted(nn.Module):
    """A linear layer plus a low-rank correction: `base(x) + B (A x)`, the scaling folded into B."""

    def __init__(self, base: nn.Module, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5)
        self.lora_b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        # In fp32: on a CPU two small fp32 products take a third of the time of bf16 ones.
        rows, few = x.to(self.lora_a.dtype), x.dim() == 2 and len(x) < FEWEST_ROWS
        low = F.linear(F.pad(rows, (0, 0, 0, FEWEST_ROWS - len(x))) if few else rows, self.lora_a)
        correction = F.linear(low, self.lora_b).to(x.dtype)
        return self.base(x) + (correction[: len(x)] if few else correction)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Layer(nn.Module):
    def __init__(self, index: int, config: LisaConfig, linear: LinearFactory) -> None:
        super().__init__()
        width, side = config.hidden_size, config.head_dim
        self.index, self.side, self.heads, self.kv_heads = index, side, config.num_heads, config.num_kv_heads
        self.input_norm = RMSNorm(width, config.rms_norm_eps)
        self.qkv = linear(f"layers.{index}.qkv", width, (self.heads + 2 * self.kv_heads) * side)
        self.o = linear(f"layers.{index}.o", width, width)
        self.post_norm = RMSNorm(width, config.rms_norm_eps)
        self.gate_up = linear(f"layers.{index}.gate_up", width, 2 * config.intermediate_size)
        self.down = linear(f"layers.{index}.down", config.intermediate_size, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        qkv = self.qkv(self.input_norm(x)).unflatten(-1, (-1, self.side))
        turned = rotate(qkv[..., : -self.kv_heads, :], rotation)
        q, k = turned[..., : self.heads, :], turned[..., self.heads :, :]
        x = x + self.o(attend(self.index, q, k, qkv[..., -self.kv_heads :, :]))
        gate, up = self.gate_up(self.post_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def rotary_tables(positions: int, side: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and signed sin [positions, 1, side], exact fp32 whatever the model's dtype is (a bf16 `inv_freq` flips mask pixels)."""
    inverse = theta ** (-torch.arange(0, side, 2, dtype=torch.float32) / side)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse)
    sin = angles.sin()
    return torch.cat([angles, angles], -1).cos().unsqueeze(1), torch.cat([-sin, sin], -1).unsqueeze(1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of x [..., heads, d] in fp32, halves paired as in the released Llama checkpoints."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


class Llama(nn.Module):
    """The decoder, its vocabulary with added rows, the picture projector and `text_hidden_fcs`.

    `embed` and `head` are modules: ids [N] -> [N, H], hidden [N, H] -> logits [N, vocab_size].
    State-dict names of everything trained are those of a delta file: `projector.*`, `text_hidden_fcs.*`,
    `layers.N.{qkv,o,gate_up,down}.lora_{a,b}`, `added_embeddings`, `added_head`.
    """

    def __init__(self, config: LisaConfig, linear: LinearFactory, embed: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.config = config
        width, added = config.hidden_size, len(config.added)
        self.embed_tokens, self.head = embed, head
        self.layers = nn.ModuleList(Layer(i, config, linear) for i in range(config.num_layers))
        self.norm = RMSNorm(width, config.rms_norm_eps)
        self.added_embeddings = nn.Parameter(torch.randn(added, width) * 0.02)
        self.added_head = nn.Parameter(torch.randn(added, width) * 0.02)
        self.projector = projector(config)
        self.text_hidden_fcs = seg_head(config)
        cos, sin = rotary_tables(config.context, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def embed(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., H]; ids from `vocab_size` upwards are the added rows."""
        base = self.config.vocab_size
        rows = self.embed_tokens(ids.clamp(max=base - 1))
        added = F.embedding((ids - base).clamp(min=0), self.added_embeddings).to(rows.dtype)
        return torch.where((ids >= base).unsqueeze(-1), added, rows)

    def project(self, features: Tensor) -> Tensor:
        """Picture tokens [..., T, C] -> [..., T, H], in the dtype of the projector."""
        return self.projector(features.to(self.added_head.dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        """Post-norm hidden [..., H] -> fp32 [..., vocab_size + added]."""
        added = F.linear(hidden.float(), self.added_head.float())
        return torch.cat([self.head(hidden).float(), added], dim=-1)

    def head_row(self, token: int) -> Tensor:
        """fp32 [H]: the row whose product with a hidden state is a token's exact logit (the head's own output is rounded)."""
        base = self.config.vocab_size
        return self.added_head[token - base].float() if token >= base else self.head.row(token)

    def seg(self, hidden: Tensor) -> Tensor:
        """Post-norm hidden [..., H] at the positions that predict `[SEG]` -> prompts of the mask decoder, fp32 [..., E]."""
        first = self.text_hidden_fcs[0]
        return self.text_hidden_fcs(hidden.to(first.weight.dtype)).float()

    def forward(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Vectors x [..., H] at positions [...] -> hidden states after the last norm [..., H]."""
        rotation = self.cos[positions], self.sin[positions]
        for layer in self.layers:
            x = layer(x, rotation, attend)
        return self.norm(x)

    def forward_train(self, embeds: Tensor, checkpoint: bool = False) -> Tensor:
        """Vectors [B, T, H], padded on the right -> hidden states after the last norm [B, T, H].

        Attention is causal, so padding on the right changes nothing before it: no mask is needed, the caller just
        ignores the padded positions. `checkpoint` recomputes each layer in the backward pass (less memory).
        """
        rotation = self.cos[: embeds.shape[1]], self.sin[: embeds.shape[1]]
        x = embeds
        for layer in self.layers:
            run = partial(recompute, layer, use_reentrant=False) if checkpoint else layer
            x = run(x, rotation, causal)
        return self.norm(x)


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of whole right-padded sequences [B, T, heads, d], without a cache."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def projector(config: LisaConfig) -> nn.Sequential:
    """Picture tokens of width C -> H: one linear layer (LISA-7B) or two with GELU between (LLaVA 1.5, LISA++)."""
    first = nn.Linear(config.image_width, config.hidden_size)
    if config.projector == "linear":
        return nn.Sequential(first)
    return nn.Sequential(first, nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size))


def seg_head(config: LisaConfig) -> nn.Sequential:
    """Hidden state that predicts `[SEG]` [H] -> prompt of the mask decoder [E]."""
    width = config.hidden_size
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.seg_width))


def adapted(linear: LinearFactory, rank: int, targets: tuple[str, ...] = TARGETS) -> LinearFactory:
    """The same factory with a low-rank adapter on the layers named; their names become `<name>.lora_a`, `<name>.lora_b`."""

    def make(name: str, inputs: int, outputs: int) -> nn.Module:
        base = linear(name, inputs, outputs)
        return Adapted(base, inputs, outputs, rank) if name.rsplit(".", 1)[-1] in targets else base

    return make
