"""Stored forms of weights: the GGUF repack, the 4- and 8-bit kernels, the exact rotary tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader, quants
from lisa_small import CONFIG, tensors
from safetensors.torch import save_file
from sightline_ensemble.artefacts import load_manifest, verify
from sightline_ensemble.lisa.int4 import dense, load_embedding, load_linear
from sightline_ensemble.lisa.model import rotary_tables, rotate
from sightline_ensemble.lisa.runner import build_model, load_model
from sightline_export.quantise import rows_int8
from sightline_export.smollm2 import (
    build_lisa,
    gguf_path,
    halves_paired,
    int4,
    q4_1_blocks,
    read_config,
    untrained,
    vocabulary,
)  # fmt: skip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reader() -> GGUFReader:
    return GGUFReader(gguf_path())


def named(reader: GGUFReader, name: str):
    return next(t for t in reader.tensors if t.name == name)


def exact(tensor) -> np.ndarray:
    return quants.dequantize(tensor.data, tensor.tensor_type)


def test_q4_1_blocks_are_read_exactly(reader):
    tensor = named(reader, "blk.7.ffn_down.weight")
    codes, d, m = q4_1_blocks(tensor)
    wide = [a.astype(np.float32).repeat(32, 1) for a in (d, m)]
    assert np.array_equal(codes * wide[0] + wide[1], exact(tensor))


def test_the_repack_keeps_every_code_and_rounds_only_scale_and_zero(reader):
    tensor = named(reader, "blk.7.ffn_down.weight")
    q4, sz = int4([(tensor, 0)])
    stored = dense({"w.q4": q4, "w.sz": sz}, "w")
    truth = torch.from_numpy(exact(tensor))
    scale = torch.from_numpy(q4_1_blocks(tensor)[1].astype(np.float32)).repeat_interleave(32, 1)
    assert (stored - truth).norm() / truth.norm() < 0.0025
    # bf16 keeps 8 bits: (q - 8) s errs by at most 8 s 2^-9, the zero likewise by its own size
    zero = torch.from_numpy(sum(a.astype(np.float32) * f for a, f in zip(q4_1_blocks(tensor)[1:], (8, 1), strict=True))).repeat_interleave(
        32, 1
    )
    assert ((stored - truth).abs() <= (8 * scale.abs() + zero.abs()) * 2**-8 + 1e-7).all()


def test_query_rows_pair_halves():
    rows = np.arange(16).reshape(16, 1)  # two heads of eight, pairs side by side
    assert halves_paired(rows, 2)[:8, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_the_embedding_is_exact_and_the_head_close(reader):
    tensor = named(reader, "token_embd.weight")
    made = vocabulary(tensor)
    truth = torch.from_numpy(exact(tensor))
    ids = torch.tensor([0, 5, 49151])
    assert torch.equal(load_embedding(made, "embed_tokens", torch.float32, CPU)(ids), truth[ids])
    error = (dense(made, "head") - truth).norm() / truth.norm()
    assert error < 0.013


@pytest.mark.parametrize("rows", [1, 3, 8, 17])
def test_the_int4_kernel_multiplies_by_the_dense_weight(rows):
    stored = tensors(CONFIG, four_bit=True)
    x = torch.randn(rows, 64).bfloat16()
    expected = x.float() @ dense(stored, "layers.0.qkv").T
    out = load_linear(stored, "layers.0.qkv", torch.bfloat16, CPU)(x)
    assert (out.float() - expected).norm() / expected.norm() < 0.005


def test_the_int8_rows_and_their_exact_product():
    weight = torch.randn(96, 64)
    q8, s8 = rows_int8(weight)
    layer = load_linear({"h.q8": q8, "h.s8": s8}, "h", torch.bfloat16, CPU)
    assert ((q8.float() * s8.float().unsqueeze(1) - weight).abs().amax(1) <= s8.float() * 0.51).all()
    x = torch.randn(2, 64).bfloat16()
    assert torch.allclose(layer(x).float(), x.float() @ dense({"h.q8": q8, "h.s8": s8}, "h").T, rtol=0.01, atol=0.05)
    assert torch.equal(layer.row(3), q8[3].float() * s8[3].float())


@pytest.mark.parametrize("offset", [0, 1, 8])
def test_tensors_of_a_mapped_file_may_lie_at_any_offset(offset):
    """A kernel that reads 16 bytes at a time dies on them; what is loaded lies in memory of our own."""
    codes = torch.randint(-127, 128, (64 * 32 + offset,), dtype=torch.int8)[offset:].view(64, 32)
    layer = load_linear({"head.q8": codes, "head.s8": torch.ones(64, dtype=torch.bfloat16)}, "head", torch.bfloat16, torch.device("cpu"))
    assert layer.q8.data_ptr() % 16 == 0 and layer.q8.data_ptr() != codes.data_ptr()
    x = torch.randn(3, 32).bfloat16()
    torch.testing.assert_close(layer(x).float(), x.float() @ codes.float().T, atol=2.0, rtol=0.02)


def test_rotary_tables_are_exact_and_turn_halves():
    cos, sin = rotary_tables(8, 4, 100.0)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    turned = rotate(x, (cos[5:6], sin[5:6]))[0, 0]
    angles = [5.0, 0.5]
    expected = [x[0, 0, i] * np.cos(a) - x[0, 0, i + 2] * np.sin(a) for i, a in enumerate(angles)]
    assert torch.allclose(turned[:2], torch.tensor(expected), atol=1e-6)


def test_an_adapter_of_zeros_changes_nothing_and_a_missing_weight_is_named():
    with_adapter = tensors(CONFIG, rank=4)
    plain = build_model(CONFIG, {name: value for name, value in with_adapter.items() if "lora" not in name}, CPU)
    for name in list(with_adapter):
        if name.endswith("lora_b"):
            with_adapter[name].zero_()
    x = torch.randn(1, 6, 64)
    assert torch.allclose(build_model(CONFIG, with_adapter, CPU).forward_train(x), plain.forward_train(x), atol=1e-5)
    del with_adapter["projector.0.bias"]
    with pytest.raises(ValueError, match="projector.0.bias"):
        build_model(CONFIG, with_adapter, CPU)


def test_an_artefact_is_built_and_read_back(reader, tmp_path):
    config = read_config(reader, image_width=16)
    verdict = {"seg": config.seg, "no": 3528, "yes": 10576, "scale": 2.0, "bias": -0.5}
    delta = tmp_path / "delta.safetensors"
    adapter = {"layers.4.qkv.lora_a": torch.randn(4, 576), "layers.4.qkv.lora_b": torch.randn(960, 4)}
    save_file(
        {k: v.half() for k, v in (untrained(config) | adapter).items()}, str(delta), {"verdict": json.dumps(verdict), "image_width": "16"}
    )
    build_lisa(tmp_path / "lisa_engine", delta)
    manifest = load_manifest(tmp_path / "lisa_engine", "tiny")
    verify(manifest)
    made = load_model(manifest.folder)
    assert made.config.verdict.scale == 2.0 and made.config.image_width == 16 == manifest.dims["image_width"]
    assert torch.equal(made.layers[4].qkv.lora_a, adapter["layers.4.qkv.lora_a"].half().float())
    held = sum(layer.bytes for layer in made.modules() if type(layer).__name__ == "Int4Linear")
    assert held / 212336640 <= 0.32
