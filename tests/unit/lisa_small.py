"""A LISA of two random layers with a byte tokenizer, and ways to ask it."""

from __future__ import annotations

import threading

import numpy as np
import torch
from sightline_ensemble.lisa.config import LisaConfig, Template, Verdict
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.limits import Limits
from sightline_ensemble.lisa.metrics import Meter
from sightline_ensemble.lisa.model import Llama, projector, seg_head
from sightline_ensemble.lisa.runner import build_model
from sightline_ensemble.lisa.sequence import Event, Request
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = Template(
    system="<s>system: answer shortly about the picture<e>\n",
    user="<s>user\n{image}{question}<e>\n<s>assistant\n",
    image="{image}\n",
    assistant="{answer}<e>\n",
    specials=("<s>", "<e>"),
)
CONFIG = LisaConfig(
    hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, num_kv_heads=2, rms_norm_eps=1e-5, rope_theta=1e4,
    vocab_size=258, added={"[SEG]": 258}, eos=(257,), dtype="float32", image_width=8, slots=2, seg_width=16, context=512,
    template=TEMPLATE,
)  # fmt: skip
VERDICT = Verdict(seg=258, no=40, yes=50)


def tokenizer() -> Tokenizer:
    """One token a byte, and names for the two special tokens."""
    vocab = {token: i for i, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "<e>"])}
    made = Tokenizer(models.BPE(vocab, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made


def linears(config: LisaConfig) -> dict[str, tuple[int, int]]:
    """name -> outputs, inputs of the large linear layers."""
    width, wide, side = config.hidden_size, config.intermediate_size, config.head_dim
    shapes = {"qkv": ((config.num_heads + 2 * config.num_kv_heads) * side, width), "o": (width, width)}
    shapes |= {"gate_up": (2 * wide, width), "down": (width, wide)}
    return {f"layers.{i}.{name}": shape for i in range(config.num_layers) for name, shape in shapes.items()}


def tensors(config: LisaConfig, four_bit: bool = False, rank: int = 0) -> dict[str, torch.Tensor]:
    """Random weights in the stored forms of an artefact."""
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = {}
    for name, (outputs, inputs) in linears(config).items():
        if four_bit:
            found[f"{name}.q4"] = torch.randint(0, 256, (outputs, inputs // 2), dtype=torch.uint8)
            scale = torch.full((inputs // 32, outputs), 0.03)
            found[f"{name}.sz"] = torch.stack([scale, torch.randn_like(scale) * 0.02], -1).bfloat16()
        else:
            found[f"{name}.weight"] = torch.randn(outputs, inputs) * inputs**-0.5 * 1.5
        if rank:
            found[f"{name}.lora_a"], found[f"{name}.lora_b"] = torch.randn(rank, inputs) * 0.1, torch.randn(outputs, rank) * 0.1
    for i in range(config.num_layers):
        found |= {f"layers.{i}.{norm}.weight": torch.rand(config.hidden_size) + 0.5 for norm in ("input_norm", "post_norm")}
    found["norm.weight"] = torch.rand(config.hidden_size) + 0.5
    found["embed_tokens.weight"] = torch.randn(config.vocab_size, config.hidden_size)
    found["head.weight"] = torch.randn(config.vocab_size, config.hidden_size)
    found |= {name: torch.randn(1, config.hidden_size) for name in ("added_embeddings", "added_head")}
    for name, part in (("projector", projector(config)), ("text_hidden_fcs", seg_head(config))):
        found |= {f"{name}.{key}": value.clone() for key, value in part.state_dict().items()}
    return found


def model(config: LisaConfig = CONFIG, **kinds: object) -> Llama:
    return build_model(config, tensors(config, **kinds), torch.device("cpu"))  # type: ignore[arg-type]


def engine(config: LisaConfig = CONFIG, limits: Limits | None = None, state=None, meter: Meter | None = None, **kinds: object) -> Engine:
    state = state or (lambda ticket: "live")
    return Engine(model(config, **kinds), tokenizer(), state, limits or Limits(threads=1), meter)


def picture(seed: int, tokens: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, CONFIG.image_width)).astype(np.float32)


class Asked:
    """A request on its way; `events` as they came."""

    def __init__(self, to: Engine, request: Request) -> None:
        self.events: list[Event] = []
        self.done = threading.Event()
        to.submit(request, self)

    def __call__(self, event: Event) -> None:
        assert not self.done.is_set(), "an event after the final one"
        self.events.append(event)
        if event.final:
            self.done.set()

    def wait(self) -> Event:
        assert self.done.wait(30), "no final event"
        return self.events[-1]


def naive(of: Llama, ids: list[int], features: np.ndarray, count: int) -> list[int]:
    """Greedy decoding without a cache: every token from a whole forward pass."""
    answer: list[int] = []
    with torch.inference_mode():
        while len(answer) < count:
            row = torch.tensor(ids + answer)
            x = of.embed(row.clamp(min=0))
            x[row == -1] = of.project(torch.from_numpy(features))
            token = int(of.logits(of.forward_train(x.unsqueeze(0))[0, -1:])[0].argmax())
            if token in of.config.eos:
                break
            answer.append(token)
    return answer
