"""TensorRT-RTX plans of the graphs that SAM and LISA need, in their released sizes (vit_b), random weights, built without a GPU."""

import pytest
import torch
from sightline_ensemble import artefacts, plans
from sightline_ensemble.contract import MODELS, SEG_SLOTS
from sightline_export import cli
from sightline_export.graphs import LisaDecoder, SamDecoder
from sightline_export.onnx_file import write_onnx
from sightline_export.sam_decoder import MaskDecoder, PromptEncoder
from sightline_export.sam_encoder import SIZES, ImageEncoder

CAPABLE = ("sm_80", "sm_86", "sm_89", "sm_120", "sm_121")  # of TensorRT-RTX 1.7, fp32
MASKS = ("low_res_masks", "iou_predictions")


def encoder():
    pixels = torch.zeros(2, 3, 1024, 1024, dtype=torch.uint8)
    return (
        ImageEncoder(SIZES["vit_b"]),
        {"sam_pixels": pixels, "resized_size": torch.full((2, 2), 1024, dtype=torch.int32)},
        ("image_embedding",),
    )


def decoder(graph, **prompts):
    return graph(PromptEncoder(), MaskDecoder(), 64, 1024), {"image_embedding": torch.zeros(2, 256, 64, 64), **prompts}, MASKS


GRAPHS = {
    "sam_encoder": encoder,
    "sam_decoder": lambda: decoder(SamDecoder, point_coords=torch.zeros(2, 2, 3, 2), point_labels=torch.ones(2, 2, 3)),
    "lisa_decoder": lambda: decoder(LisaDecoder, seg_embeddings=torch.zeros(2, SEG_SLOTS, 256)),
}


@pytest.mark.parametrize("model", GRAPHS)
def test_released_sizes_build(model, tmp_path, capsys):
    torch.manual_seed(0)
    module, inputs, outputs = GRAPHS[model]()
    onnx = tmp_path / "graph.onnx"
    write_onnx(module, inputs, outputs, onnx, {name: MODELS[model].dynamic_axes(name) for name in inputs})
    options = ["--model", model, "--onnx", onnx, "--out", tmp_path / "plans", "--batch", "1,4,8", "--axis", "prompts=1,1,2", "points=2,2,8"]
    assert cli.main(["engine", *map(str, options)]) == 0
    printed = capsys.readouterr().out
    (path,) = (tmp_path / "plans").glob("*.plan")
    plan, digest = plans.read_plan(path), artefacts.file_hash(onnx)
    assert path.name == f"{model}.{'+'.join(CAPABLE)}.rtx{plan.version}.fp32.{digest[7:19]}.plan"
    assert plan.onnx == {"graph.onnx": digest} and plan.sha256 == artefacts.file_hash(path) and plan.bytes == path.stat().st_size
    assert path.read_bytes()[:4] == b"vtrt" and plan.bytes > onnx.stat().st_size * 0.9  # the weights are inside
    assert plan.inputs == {tensor.name: tensor.dtype for tensor in MODELS[model].inputs}
    (profile,) = plan.profiles
    assert [shape[0] for shape in profile[next(iter(inputs))]] == [1, 4, 8] and plan.largest_batch == 8
    assert plan.build["seconds"] > 0 and plan.build["peak_mib"] * 2**20 > plan.bytes
    assert f"built in {plan.build['seconds']} s, peak memory {plan.build['peak_mib']} MiB" in printed and str(path) in printed
