"""TensorRT-RTX plans of the graphs that SAM and LISA need, in their released sizes (vit_b), random weights, built without a GPU."""

import shutil

import pytest
import torch
from sightline_ensemble import artefacts, plans
from sightline_ensemble.contract import MODELS, SEG_SLOTS
from sightline_export import cli
from sightline_export.graphs import LisaDecoder
from sightline_export.onnx_file import write_onnx
from sightline_export.sam_decoder import MaskDecoder, PromptEncoder

CAPABLE = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")  # of TensorRT-RTX 1.7, besides sm_75, which has fp16 only


@pytest.fixture(scope="module")
def lisa_decoder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lisa_decoder") / "graph.onnx"
    inputs = {"image_embedding": torch.zeros(2, 256, 64, 64), "seg_embeddings": torch.zeros(2, SEG_SLOTS, 256)}
    dynamic = {name: MODELS["lisa_decoder"].dynamic_axes(name) for name in inputs}
    write_onnx(LisaDecoder(PromptEncoder(), MaskDecoder(), 64, 1024), inputs, ("low_res_masks", "iou_predictions"), path, dynamic)
    return path


@pytest.mark.parametrize(("model", "precision"), [("sam_encoder", "fp16"), ("sam_decoder", "fp16"), ("lisa_decoder", "fp32")])
def test_released_sizes_build(model, precision, vit_b, lisa_decoder, tmp_path, capsys):
    onnx = tmp_path / "graph.onnx"
    vit_b.half(model, onnx) if precision == "fp16" else shutil.copy(lisa_decoder, onnx)
    options = ["--model", model, "--onnx", onnx, "--out", tmp_path / "plans", "--batch", "1,4,8", "--axis", "prompts=1,1,2", "points=2,2,8"]
    assert cli.main(["engine", *map(str, options)]) == 0
    printed = capsys.readouterr().out
    (path,) = (tmp_path / "plans").glob("*.plan")
    plan, digest = plans.read_plan(path), artefacts.file_hash(onnx)
    assert all(architecture in path.name for architecture in CAPABLE) and path.name.endswith(f".{digest[7:19]}.plan")
    assert plan.onnx == {"graph.onnx": digest} and plan.sha256 == artefacts.file_hash(path) and plan.bytes == path.stat().st_size
    assert path.read_bytes()[:4] == b"vtrt" and plan.bytes > onnx.stat().st_size * 0.9  # the weights are inside
    assert plan.inputs == {tensor.name: tensor.dtype for tensor in MODELS[model].inputs}
    (profile,) = plan.profiles
    assert [shape[0] for shape in profile[MODELS[model].inputs[0].name]] == [1, 4, 8] and plan.largest_batch == 8
    assert plan.build["seconds"] > 0 and plan.build["peak_mib"] * 2**20 > plan.bytes
    assert f"built in {plan.build['seconds']} s, peak memory {plan.build['peak_mib']} MiB" in printed and str(path) in printed
