"""Reads a released LISA folder: what it is, all of it from configuration, tokenizer and tensors, and its language model's weights.

Layout: xinlai/LISA-*-v1 and LISA++ (Lai et al., arXiv 2308.00692), written by LLaVA's merge script: Llama, `mm_projector`,
`text_hidden_fcs` and a whole SAM as `visual_model`; CLIP is not inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from sightline_ensemble.contract import SEG_SLOTS
from sightline_ensemble.lisa.config import LisaConfig, Template
from tokenizers import Tokenizer
from torch import Tensor

from .checkpoint import CheckpointError
from .clip import ClipSize
from .lisa_tokenizer import read_tokenizer
from .shards import Shards, open_shards, read_json

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)  # LLaVA's conversation llava_v1: LISA's default for every released checkpoint
IMAGE_ENDS = ("<im_start>", "<im_end>")
SEG = "[SEG]"
_IGNORED = ".rotary_emb.inv_freq"  # rounded to bfloat16; the reference computes it anew
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LisaCheckpoint:
    """`select_layer`: which of CLIP's hidden states is read; `tower`: the name of the CLIP it was trained with."""

    folder: Path
    shards: Shards
    config: LisaConfig
    tokenizer: Tokenizer
    select_layer: int
    tower: str


def read_lisa(folder: Path) -> LisaCheckpoint:
    """Everything but the weights; CheckpointError names the file and the key that are missing or do not fit."""
    shards, said = open_shards(folder), read_json(folder / "config.json")
    if (feature := said.get("mm_vision_select_feature", "patch")) != "patch":
        raise CheckpointError(f"{folder.name}/config.json: mm_vision_select_feature is {feature!r}, expected 'patch'")
    if said.get("rope_scaling"):
        raise CheckpointError(f"{folder.name}/config.json: rope_scaling is set, expected positions as they are")
    tokenizer, sides = read_tokenizer(folder), _sides(folder, shards, said)
    words = tokenizer.get_vocab_size()
    added = _added(folder, words, shards.tensor("model.embed_tokens.weight", (None, None)).shape[0])
    number = partial(_number, folder, said)
    try:
        config = LisaConfig(
            **sides, vocab_size=words, added=added, eos=(int(number("eos_token_id", 2)),), slots=SEG_SLOTS, dtype="float32",
            rms_norm_eps=number("rms_norm_eps", 1e-6), rope_theta=number("rope_theta", 10_000.0),
            context=int(number("max_position_embeddings", 2048)), template=_template(folder, said, tokenizer, added),
        )  # fmt: skip
    except AssertionError as error:
        raise CheckpointError(f"{folder.name}/config.json: {error}") from None
    tower = str(said.get("mm_vision_tower") or said.get("vision_tower") or "")
    return LisaCheckpoint(folder, shards, config, tokenizer, int(number("mm_vision_select_layer", -2)), tower)


def _number(folder: Path, said: dict[str, object], key: str, default: float) -> float:
    value = default if said.get(key) is None else said[key]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"{folder.name}/config.json: {key} is {value!r}, expected a number")
    return value


def _sides(folder: Path, shards: Shards, said: dict[str, object]) -> dict[str, object]:
    """Sides from the tensors; what they do not show from the configuration, which must agree with them."""

    def shape(name: str) -> torch.Size:
        return shards.tensor(name, (None, None)).shape

    layer = "model.layers.0"
    width, wide = shape("model.embed_tokens.weight")[1], shape(f"{layer}.mlp.gate_proj.weight")[0]
    numbers = [int(found[1]) for name in shards.names("model.layers.") if (found := re.match(r"model\.layers\.(\d+)\.", name))]
    heads = said.get("num_attention_heads")
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(f"{folder.name}/config.json: num_attention_heads is {heads}, expected a divisor of the width {width}")
    keys = shape(f"{layer}.self_attn.k_proj.weight")[0] * heads // width
    found = {"hidden_size": width, "intermediate_size": wide, "num_hidden_layers": 1 + max(numbers), "num_key_value_heads": keys}
    for key, value in found.items():
        if said.get(key, value) != value:
            raise CheckpointError(f"{folder.name}/config.json: {key} is {said[key]}, but the tensors say {value}")
    kind = "linear" if "model.mm_projector.weight" in shards else "mlp2x_gelu"
    first, last = ("", "") if kind == "linear" else (".0", ".2")
    if len(shards.names("model.mm_projector.")) != (2 if kind == "linear" else 4):
        raise CheckpointError(f"{folder.name}: 'model.mm_projector' is no projector of one or two linear layers")
    shards.tensor(f"model.mm_projector{last}.weight", (width, None))
    return {
        "hidden_size": width, "intermediate_size": wide, "num_layers": 1 + max(numbers), "num_heads": heads, "num_kv_heads": keys,
        "projector": kind, "image_width": shape(f"model.mm_projector{first}.weight")[1],
        "seg_width": shape("model.text_hidden_fcs.0.2.weight")[0],
    }  # fmt: skip


def _added(folder: Path, words: int, rows: int) -> dict[str, int]:
    """Names and ids of the tokens after the tokenizer's own; rows of the table that nobody named get a name that says so."""
    if (folder / "added_tokens.json").is_file():
        file, named = "added_tokens.json", read_json(folder / "added_tokens.json")
    else:
        file, tokens = "tokenizer_config.json", read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
        assert isinstance(tokens, dict)
        named = {str(token["content"]): int(i) for i, token in tokens.items()}
    added = {name: i for name, i in named.items() if isinstance(i, int) and i >= words}
    if SEG not in added:
        raise CheckpointError(f"{folder.name}/{file}: no token '{SEG}'; expected a LISA")
    if len(set(added.values())) != len(added) or max(added.values()) >= rows:
        raise CheckpointError(f"{folder.name}/{file}: ids up to {max(added.values())}, but 'model.embed_tokens.weight' has {rows} rows")
    unnamed = sorted(set(range(words, rows)) - set(added.values()))
    return dict(sorted((added | {f"<row {i}>": i for i in unnamed}).items(), key=lambda item: item[1]))


def _template(folder: Path, said: dict[str, object], tokenizer: Tokenizer, added: dict[str, int]) -> Template:
    """llava_v1, with <im_start> and <im_end> around the picture where the configuration says so."""
    begin, end = (tokenizer.id_to_token(int(_number(folder, said, f"{key}_token_id", i))) for key, i in (("bos", 1), ("eos", 2)))
    if begin is None or end is None:
        raise CheckpointError(f"{folder.name}/config.json: bos_token_id or eos_token_id is no token of its tokenizer")
    ends = IMAGE_ENDS if said.get("mm_use_im_start_end", False) else ("", "")
    if missing := [name for name in ends if name and name not in added]:
        raise CheckpointError(f"{folder.name}: no token '{missing[0]}', but config.json says mm_use_im_start_end")
    return Template(
        system=f"{begin}{SYSTEM} ",
        user="USER: {image}{question} ASSISTANT:",
        image=f"{ends[0]}{{image}}{ends[1]}\n",
        assistant=f" {{answer}}{end}",
        specials=(begin, end),
        joined=True,
    )


def check_clip(lisa: LisaCheckpoint, clip: Path, size: ClipSize) -> None:
    """CheckpointError where this is not the CLIP that the checkpoint was trained with."""
    if size.width != lisa.config.image_width:
        takes = f"'model.mm_projector' of {lisa.folder.name} takes {lisa.config.image_width}"
        raise CheckpointError(f"{clip.name}: its features are {size.width} wide, but {takes}")
    name = re.fullmatch(r".*clip-vit-\w+-patch(\d+)(?:-(\d+))?", lisa.tower)
    if name and (size.patch, size.image_size) != (wanted := (int(name[1]), int(name[2] or 224))):
        found = f"patches of {size.patch} in {size.image_size} pixels"
        raise CheckpointError(
            f"{clip.name}: {found}, expected {wanted[0]} in {wanted[1]}: {lisa.folder.name} was trained with {lisa.tower}"
        )


# --- weights ------------------------------------------------------------------------------------------------------------
def linears(config: LisaConfig) -> Iterator[tuple[str, int, list[tuple[str, int]]]]:
    """The large linear layers: our name, inputs, and the checkpoint's tensors that are stacked in it with their outputs."""
    width, wide, keys = config.hidden_size, config.intermediate_size, config.num_kv_heads * config.head_dim
    for i in range(config.num_layers):
        attn, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        yield f"layers.{i}.qkv", width, [(f"{attn}.{part}_proj.weight", n) for part, n in (("q", width), ("k", keys), ("v", keys))]
        yield f"layers.{i}.o", width, [(f"{attn}.o_proj.weight", width)]
        yield f"layers.{i}.gate_up", width, [(f"{mlp}.{part}_proj.weight", wide) for part in ("gate", "up")]
        yield f"layers.{i}.down", wide, [(f"{mlp}.down_proj.weight", width)]


def others(config: LisaConfig) -> Iterator[tuple[str, str, Shape]]:
    """Everything else but the vocabulary: our name, the checkpoint's, and the shape."""
    width, seg, theirs = config.hidden_size, config.seg_width, "model.text_hidden_fcs.0"
    for i in range(config.num_layers):
        yield f"layers.{i}.input_norm.weight", f"model.layers.{i}.input_layernorm.weight", (width,)
        yield f"layers.{i}.post_norm.weight", f"model.layers.{i}.post_attention_layernorm.weight", (width,)
    yield "norm.weight", "model.norm.weight", (width,)
    parts = [("projector.0", "model.mm_projector", width, config.image_width)]
    if config.projector != "linear":
        parts = [(f"projector.{i}", f"model.mm_projector.{i}", width, n) for i, n in ((0, config.image_width), (2, width))]
    parts += [("text_hidden_fcs.0", f"{theirs}.0", width, width), ("text_hidden_fcs.2", f"{theirs}.2", seg, width)]
    for ours, name, outputs, inputs in parts:
        yield f"{ours}.weight", f"{name}.weight", (outputs, inputs)
        yield f"{ours}.bias", f"{name}.bias", (outputs,)


def stacked(shards: Shards, parts: list[tuple[str, int]], inputs: int) -> Tensor:
    """The tensors of a fused layer on top of each other, float32."""
    return torch.cat([shards.tensor(name, (outputs, inputs)).float() for name, outputs in parts])


def check_weights(lisa: LisaCheckpoint) -> None:
    """Read every tensor of the language model once; CheckpointError where one is missing, damaged or unknown."""
    if foreign := unknown(lisa):
        raise CheckpointError(f"{lisa.shards.files[foreign[0]]}: unknown tensor '{foreign[0]}'; expected a LISA as released")
    config = lisa.config
    table = (config.vocab_size + len(config.added), config.hidden_size)
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": table, "lm_head.weight": table}
    shapes |= {name: (outputs, inputs) for _, inputs, parts in linears(config) for name, outputs in parts}
    shapes |= {name: shape for _, name, shape in others(config)}
    if missing := [name for name in shapes if name not in lisa.shards]:
        lisa.shards.tensor(missing[0])
    for name in lisa.shards.names():  # the checkpoint's order: one shard after the other
        if name in shapes:
            lisa.shards.tensor(name, shapes[name])


def unknown(lisa: LisaCheckpoint) -> list[str]:
    """Tensors that no part of a LISA has: reading them as if they were not there would be a guess."""
    config, known = lisa.config, {"model.embed_tokens.weight", "lm_head.weight"}
    known |= {name for _, _, parts in linears(config) for name, _ in parts} | {name for _, name, _ in others(config)}
    rest = [name for name in lisa.shards.names() if name not in known and not name.endswith(_IGNORED)]
    return [name for name in rest if not name.startswith(("model.visual_model.", "model.vision_tower."))]
