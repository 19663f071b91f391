"""CLIP's vision tower for export, as LISA reads it: features of one of its last layers, and patch features of several for the expert.

Radford et al., "Learning Transferable Visual Models" (arXiv 2103.00020), in the layout of Hugging Face's CLIPModel and
CLIPVisionModel. Only the layers that somebody reads are run: LISA takes the output of the last but one.

Shapes: B pictures, V side of the picture, G = V / patch, T = G G patches, L = T + 1 tokens (the class first), C width,
h heads, d = C / h, D = stages C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import CheckpointError
from .shards import Shards, open_shards, read_json

STAGES = 4  # as AnomalyGPT (arXiv 2308.15366): at the quarters of what is run
ACTIVATIONS = ("quick_gelu", "gelu")
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclass(frozen=True)
class ClipSize:
    """One vision tower. `layers`: how many are run; `mean`, `std`: of RGB in 0..1."""

    width: int
    heads: int
    hidden: int
    layers: int
    patch: int
    image_size: int
    activation: str = "quick_gelu"
    eps: float = 1e-5
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: str = "bicubic"

    @property
    def grid(self) -> int:
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        return self.grid**2

    @property
    def stages(self) -> tuple[int, ...]:
        """Numbers of the layers, from 1, whose outputs the expert compares."""
        return tuple(sorted({math.ceil(self.layers * (i + 1) / STAGES) for i in range(STAGES)}))

    @property
    def dims(self) -> dict[str, object]:
        """What the steps read in the manifest: how to make the pixels, and what comes out."""
        return {
            "image_size": self.image_size, "resize": "short_edge_center_crop", "resample": self.resample,
            "stages": [[self.width, self.grid, self.grid]] * len(self.stages), "tokens": self.tokens, "width": self.width,
        }  # fmt: skip


class Attention(nn.Module):
    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.heads, self.length = size.heads, size.tokens + 1
        self.qkv, self.out = nn.Linear(size.width, 3 * size.width), nn.Linear(size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        width = x.shape[-1]
        side = width // self.heads
        q, k, v = self.qkv(x).reshape(-1, self.length, 3, self.heads, side).permute(2, 0, 3, 1, 4).unbind(0)  # [B, h, L, d] each
        if torch.onnx.is_in_onnx_export():  # the pattern that engines fuse; the exporter's own would scale q and k each
            out = torch.softmax((q * side**-0.5) @ k.transpose(-2, -1), dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.out(out.transpose(1, 2).reshape(-1, self.length, width))


class Layer(nn.Module):
    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size.width, size.eps), nn.LayerNorm(size.width, size.eps)
        self.attn = Attention(size)
        self.fc1, self.fc2 = nn.Linear(size.width, size.hidden), nn.Linear(size.hidden, size.width)
        self.quick = size.activation == "quick_gelu"

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        x = x + self.attn(self.norm1(x))
        y = self.fc1(self.norm2(x))
        return x + self.fc2(y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y))


class Embeddings(nn.Module):
    """float [B, 3, V, V] -> [B, L, C]: the patch convolution as a matrix product, the class before, the positions, a norm."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.grid, self.patch = size.grid, size.patch
        self.patches = nn.Linear(3 * size.patch**2, size.width, bias=False)
        self.first = nn.Parameter(torch.zeros(1, 1, size.width))  # the class with its position
        self.positions = nn.Parameter(torch.zeros(size.tokens, size.width))
        self.norm = nn.LayerNorm(size.width, size.eps)

    def forward(self, pixels: Tensor) -> Tensor:
        cut = pixels.reshape(-1, 3, self.grid, self.patch, self.grid, self.patch).permute(0, 2, 4, 1, 3, 5)
        x = self.patches(cut.reshape(-1, self.grid**2, 3 * self.patch**2)) + self.positions
        return self.norm(torch.cat((self.first.expand(x.shape[0], -1, -1), x), dim=1))


class VisionEncoder(nn.Module):
    """vision_pixels uint8 [B, 3, V, V] -> image_features [B, T, C], patch_features [B, T, D], picture_evidence [B, 2], float32.

    image_features: the last layer that is run, without the class. patch_features: each stage of unit length, side by side.
    picture_evidence: 0, for CLIP was taught no verdict of its own and no sort of picture is foreign to it.
    """

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.size = size
        self.embeddings = Embeddings(size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        mean, std = (torch.tensor(values, device="cpu").view(3, 1, 1) for values in (size.mean, size.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, vision_pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.embeddings(self.normalise(vision_pixels))
        stages = []
        for number, layer in enumerate(self.layers, 1):
            x = layer(x)
            if number in self.size.stages:
                patches = x[:, 1:]
                stages.append(patches / patches.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12))
        return x[:, 1:], torch.cat(stages, dim=-1), 0 * x[:, 0, :2]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 -> float32 of the same shape: mean 0, deviation 1."""
        return pixels.float() * self.scale - self.shift


def load_clip(folder: Path, select_layer: int = -2) -> VisionEncoder:
    """The vision tower of a released CLIP folder, float32, in evaluation mode.

    Args:
        select_layer: which of the hidden states is read, counted from the end (LISA: -2, the last layer's input).
    Raises:
        CheckpointError: files or tensors are missing, damaged, or do not fit the configuration.
    """
    shards = open_shards(folder)
    prefix = next((p for p in ("vision_model.", "") if f"{p}embeddings.class_embedding" in shards), None)
    if prefix is None:
        raise CheckpointError(f"{folder.name}: no CLIP: it has no tensor 'vision_model.embeddings.class_embedding'")
    size = _size(folder, shards, prefix, select_layer)
    with torch.device("meta"):  # no memory for weights that are replaced at once
        encoder = VisionEncoder(size)
    encoder.load_state_dict(_state(shards, prefix, size), assign=True)
    return encoder.eval().requires_grad_(False)


def _size(folder: Path, shards: Shards, prefix: str, select_layer: int) -> ClipSize:
    """Sides from the tensors; what they do not show from the configuration, which must agree with them."""
    top = read_json(folder / "config.json")
    config = top.get("vision_config", top)
    assert isinstance(config, dict)
    rows, width = shards.tensor(f"{prefix}embeddings.position_embedding.weight", (None, None)).shape
    patch = shards.tensor(f"{prefix}embeddings.patch_embedding.weight", (width, 3, None, None)).shape[-1]
    hidden = shards.tensor(f"{prefix}encoder.layers.0.mlp.fc1.weight", (None, width)).shape[0]
    depth = 1 + max(int(name.removeprefix(prefix).split(".")[2]) for name in shards.names(f"{prefix}encoder.layers."))
    grid, heads = math.isqrt(rows - 1), config.get("num_attention_heads")
    found = {"hidden_size": width, "patch_size": patch, "image_size": grid * patch, "intermediate_size": hidden, "num_hidden_layers": depth}
    for key, value in found.items():
        if config.get(key, value) != value:
            raise CheckpointError(f"{folder.name}/config.json: {key} is {config[key]}, but the tensors say {value}")
    if not isinstance(heads, int) or heads < 1 or width % heads or grid**2 != rows - 1:
        raise CheckpointError(f"{folder.name}/config.json: num_attention_heads is {heads}, expected a divisor of the width {width}")
    activation = config.get("hidden_act", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"{folder.name}/config.json: hidden_act is {activation!r}, expected {' or '.join(ACTIVATIONS)}")
    if not -depth <= select_layer <= -1:
        raise CheckpointError(f"{folder.name}: has {depth} layers, the checkpoint reads number {select_layer}")
    size = ClipSize(width, heads, hidden, depth + 1 + select_layer, patch, grid * patch, activation, config.get("layer_norm_eps", 1e-5))
    return _with_pixels(folder, size)


def _with_pixels(folder: Path, size: ClipSize) -> ClipSize:
    """The size with what preprocessor_config.json, old or new, says of the pixels."""
    path, content = f"{folder.name}/preprocessor_config.json", read_json(folder / "preprocessor_config.json")
    sides = {side for key in ("size", "crop_size") for side in _sides(content.get(key))}
    if sides - {size.image_size}:
        raise CheckpointError(f"{path}: pictures of {sorted(sides)} pixels, but the tensors are for {size.image_size}")
    resample = content.get("resample", 3)
    if resample not in _RESAMPLE:
        raise CheckpointError(f"{path}: resample is {resample}, expected {' or '.join(map(str, _RESAMPLE))}")
    values = [content.get(key) for key in ("image_mean", "image_std")]
    if not all(isinstance(v, list) and len(v) == 3 and all(isinstance(x, float) for x in v) for v in values):
        raise CheckpointError(f"{path}: expected three numbers each in image_mean and image_std")
    return replace(size, mean=tuple(values[0]), std=tuple(values[1]), resample=_RESAMPLE[resample])  # type: ignore[arg-type]


def _sides(value: object) -> list[object]:
    """A side is a number in old files, {"shortest_edge": ...} or {"height": ..., "width": ...} in new ones."""
    return list(value.values()) if isinstance(value, dict) else [] if value is None else [value]


def _state(shards: Shards, prefix: str, size: ClipSize) -> dict[str, Tensor]:
    """The module's tensors: q, k and v in one, the class with its position."""
    width, hidden = size.width, size.hidden

    def get(name: str, *shape: int) -> Tensor:
        return shards.tensor(f"{prefix}{name}", shape).float()

    def norm(theirs: str, ours: str) -> dict[str, Tensor]:
        return {f"{ours}.{kind}": get(f"{theirs}.{kind}", width) for kind in ("weight", "bias")}

    positions = get("embeddings.position_embedding.weight", size.tokens + 1, width)
    state = {
        "embeddings.patches.weight": get("embeddings.patch_embedding.weight", width, 3, size.patch, size.patch).flatten(1),
        "embeddings.first": (get("embeddings.class_embedding", width) + positions[0]).view(1, 1, -1),
        "embeddings.positions": positions[1:].clone(),
        **norm("pre_layrnorm", "embeddings.norm"),
    }
    for i in range(size.layers):
        theirs, ours = f"encoder.layers.{i}", f"layers.{i}"
        state |= norm(f"{theirs}.layer_norm1", f"{ours}.norm1") | norm(f"{theirs}.layer_norm2", f"{ours}.norm2")
        for kind, shape in (("weight", (width,)), ("bias", ())):
            parts = [get(f"{theirs}.self_attn.{part}_proj.{kind}", width, *shape) for part in "qkv"]
            state[f"{ours}.attn.qkv.{kind}"] = torch.cat(parts)
            state[f"{ours}.attn.out.{kind}"] = get(f"{theirs}.self_attn.out_proj.{kind}", width, *shape)
            state[f"{ours}.fc1.{kind}"] = get(f"{theirs}.mlp.fc1.{kind}", hidden, *shape)
            state[f"{ours}.fc2.{kind}"] = get(f"{theirs}.mlp.fc2.{kind}", width, *(hidden for _ in shape))
    return state
