"""What benchmarks/engine.py measures: the tiny LISA as served, or LISA's released sizes with random weights made on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from harness import REPOSITORY
from safetensors.torch import load_file
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.lisa.config import LisaConfig
from sightline_ensemble.lisa.int4 import Tensors, dense
from sightline_ensemble.lisa.model import Llama, projector, seg_head
from sightline_ensemble.lisa.runner import build_model
from tokenizers import Tokenizer, models, pre_tokenizers

GROUP = 128
CLIP_L14 = 0.155e12  # operations of CLIP-L/14 on 224 x 224 pixels
SIZES = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}  # width, inner width, layers, heads
PICTURE_TOKENS, WORDS = 256, 64


@dataclass
class Subject:
    """A model to measure. `tensors`: its weights as stored, 4-bit; `vision` runs its picture encoder once, where it has one.

    `features`: picture tokens [T, C] of a request; `question` makes the rest of its prompt.
    """

    name: str
    config: LisaConfig
    tensors: Tensors
    tokenizer: Tokenizer
    features: np.ndarray
    question: str
    device: torch.device
    vision: Callable[[], object] | None = None
    vision_operations: float = 0.0

    @cached_property
    def served(self) -> Llama:
        """4-bit linear layers, as the server runs it."""
        return build_model(self.config, self.tensors, self.device)

    @cached_property
    def plain(self) -> Llama:
        """The same weights as bf16 numbers."""
        names = {name.rsplit(".", 1)[0] for name in self.tensors if name.endswith((".q4", ".q8"))}
        kept = {name: value for name, value in self.tensors.items() if not name.endswith((".q4", ".sz", ".q8", ".s8", ".d8"))}
        made = {f"{name}.weight": dense(self.tensors, name).to(torch.bfloat16) for name in sorted(names)}
        return build_model(self.config, kept | made, self.device)


def subject(name: str, device: torch.device) -> Subject:
    """name: tiny, 7b or 13b."""
    return tiny() if name == "tiny" else released(name, device)


def tiny() -> Subject:
    from sightline_ensemble.onnx import session

    folder = load_manifest(REPOSITORY / "lisa_engine", "tiny").folder
    config = LisaConfig.read(folder / "config.json").with_(eos=())
    encoder = load_manifest(REPOSITORY / "vision_encoder", "tiny")
    run, side = session(encoder.path("model.onnx")), encoder.dims["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), np.uint8)

    def vision() -> np.ndarray:
        return run.run(["image_features"], {"vision_pixels": pixels})[0]

    return Subject(
        "tiny", config, load_file(folder / "model.safetensors"), Tokenizer.from_file(str(folder / "tokenizer.json")), vision()[0],
        "Is there any anomaly in the image? If so, where is it and what is it?", torch.device("cpu"), vision,
    )  # fmt: skip


def released(size: str, device: torch.device) -> Subject:
    """The shapes of LISA-7B or -13B: random 4-bit weights in groups of 128, bf16 head and embeddings."""
    of = shapes(size)
    of.tensors, of.device = random_tensors(of.config, device), device
    return of


def shapes(size: str) -> Subject:
    """The same without weights, to count its work."""
    width, inner, layers, heads = SIZES[size]
    config = LisaConfig(
        hidden_size=width, intermediate_size=inner, num_layers=layers, num_heads=heads, num_kv_heads=heads, rms_norm_eps=1e-5,
        rope_theta=1e4, vocab_size=32000, added={"[SEG]": 32000}, eos=(), projector="linear", image_width=1024,
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({"why": 5, "\n": 6, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    features = np.random.default_rng(0).standard_normal((PICTURE_TOKENS, config.image_width)).astype(np.float32)
    question = " ".join(["why"] * WORDS)
    return Subject(size, config, {}, words, features, question, torch.device("cpu"), vision_operations=CLIP_L14)


def random_tensors(config: LisaConfig, device: torch.device) -> Tensors:
    """Weights of about the size that trained ones have, so that nothing overflows; made where they stay."""
    torch.manual_seed(0)
    made: dict[str, torch.Tensor] = {}
    for name, (outputs, inputs) in linears(config).items():
        made[f"{name}.q4"] = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8, device=device)
        scale = torch.full((inputs // GROUP, outputs), 0.2 * inputs**-0.5, device=device)
        made[f"{name}.sz"] = torch.stack([scale, 0.5 * scale], -1).bfloat16()
    ones = torch.ones(config.hidden_size)
    made |= {f"layers.{i}.{norm}.weight": ones for i in range(config.num_layers) for norm in ("input_norm", "post_norm")}
    made["norm.weight"] = ones
    for name in ("embed_tokens", "head"):
        made[f"{name}.weight"] = 0.02 * torch.randn(config.vocab_size, config.hidden_size, device=device).bfloat16()
    made |= {name: 0.02 * torch.randn(1, config.hidden_size) for name in ("added_embeddings", "added_head")}
    for name, part in (("projector", projector(config)), ("text_hidden_fcs", seg_head(config))):
        made |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    return made


def linears(config: LisaConfig) -> dict[str, tuple[int, int]]:
    """name -> outputs, inputs of the large linear layers."""
    width, inner, side = config.hidden_size, config.intermediate_size, config.head_dim
    shapes = {"qkv": ((config.num_heads + 2 * config.num_kv_heads) * side, width), "o": (width, width)}
    shapes |= {"gate_up": (2 * inner, width), "down": (width, inner)}
    return {f"layers.{i}.{name}": shape for i in range(config.num_layers) for name, shape in shapes.items()}


# --- work -------------------------------------------------------------------------------------------------------------
def forward_operations(config: LisaConfig, first: int, count: int, heads: int) -> float:
    """Of positions `first` to `first + count` with what precedes them cached; `heads` of them get logits."""
    weights = sum(outputs * inputs for outputs, inputs in linears(config).values())
    seen = count * first + count * (count + 1) / 2  # keys that the positions look at, together
    return 2.0 * (weights * count + 2 * config.num_layers * config.hidden_size * seen + config.hidden_size * config.vocab_size * heads)


def cached_operations(of: Subject, prompt: int, new: int) -> float:
    """One picture encoding, the prompt once, then one position a token."""
    tokens = sum(forward_operations(of.config, prompt + i, 1, 1) for i in range(new - 1))
    return of.vision_operations + forward_operations(of.config, 0, prompt, 1) + tokens


def reference_operations(of: Subject, prompt: int, new: int) -> float:
    """LISA as released: for each token the picture again, all positions again, and logits of all of them."""
    return sum(of.vision_operations + forward_operations(of.config, 0, prompt + i, prompt + i) for i in range(new))


def weight_bytes(model: Llama) -> int:
    """What a token reads of the weights: every linear layer as it is used, and the head."""
    found = sum(module.bytes for name, module in model.named_modules() if hasattr(module, "bytes") and "embed" not in name)
    unpacked = sum(module.q4.nbytes for module in model.modules() if getattr(module, "q4", None) is not None)
    return found - unpacked
