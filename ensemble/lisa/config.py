"""What a LISA artefact says about itself: `config.json`, read once, checked once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

PROJECTORS = ("linear", "mlp2x_gelu")


@dataclass(frozen=True)
class Verdict:
    """Rule of the first token: `sigmoid(scale * (logit[seg] - logit[no]) + bias) >= 0.5` opens with `[SEG]`, then `yes`; else `no`."""

    seg: int
    no: int
    yes: int
    scale: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True)
class Template:
    """Strings around the turns of a dialogue. Special tokens are written by name; only the template's own names are recognised.

    `image` holds `{image}` where the picture's vectors go and stands right before the first question.
    """

    system: str = ""
    user: str = "{image}{question}"
    image: str = "{image}\n"
    assistant: str = "{answer}"
    specials: tuple[str, ...] = ()  # names of the tokens that the strings above may name, besides the added ones
    joined: bool = False  # neighbouring strings are one text to the tokenizer, and white space beside a special token is dropped


@dataclass(frozen=True)
class LisaConfig:
    """Dimensions and rules of one LISA. `added` maps the names of added tokens to ids from `vocab_size` upwards."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    rms_norm_eps: float
    rope_theta: float
    vocab_size: int
    added: dict[str, int] = field(default_factory=dict)
    eos: tuple[int, ...] = (2,)
    dtype: str = "bfloat16"
    projector: str = "mlp2x_gelu"
    image_width: int = 0
    slots: int = 4
    seg_width: int = 256
    context: int = 2048
    adapter_rank: int = 0
    verdict: Verdict | None = None
    template: Template = Template()

    def __post_init__(self) -> None:
        assert self.hidden_size % self.num_heads == 0 and self.num_heads % self.num_kv_heads == 0, "heads do not divide the width"
        assert self.projector in PROJECTORS, f"projector is one of {PROJECTORS}"
        assert self.slots >= 1 and self.context >= 64, "slots and context are too small"
        ids = sorted(self.added.values())
        assert ids == list(range(self.vocab_size, self.vocab_size + len(ids))), "added ids follow the vocabulary"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def seg(self) -> int:
        """Id of `[SEG]`."""
        return self.added["[SEG]"]

    def with_(self, **changes: object) -> LisaConfig:
        return replace(self, **changes)  # type: ignore[arg-type]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> LisaConfig:
        """Raises ValueError naming what is wrong with the file."""
        try:
            data = json.loads(path.read_text())
            data["eos"] = tuple(data["eos"])
            data["verdict"] = Verdict(**data["verdict"]) if data.get("verdict") else None
            template = data["template"]
            data["template"] = Template(**{**template, "specials": tuple(template["specials"])})
            return LisaConfig(**data)
        except (KeyError, TypeError, AssertionError, json.JSONDecodeError) as error:
            raise ValueError(f"{path.name}: {error}") from None
