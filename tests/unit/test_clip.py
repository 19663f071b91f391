"""CLIP's vision tower against the reference's numbers, in every layout it comes in, and as a graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import golden_a
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from sightline_ensemble.bank import channels_of
from sightline_ensemble.contract import MODELS
from sightline_ensemble.cutout import vision_pixels
from sightline_export.checkpoint import CheckpointError
from sightline_export.clip import ClipSize, VisionEncoder, load_clip
from sightline_export.onnx_file import write_onnx
from sightline_export.shards import open_shards

PREFIX = "vision_model."


@pytest.fixture(scope="module")
def clip() -> VisionEncoder:
    return load_clip(golden_a.CLIP)


def pixels(clip: VisionEncoder, case: int) -> torch.Tensor:
    return torch.from_numpy(vision_pixels(np.asarray(golden_a.picture(case)), clip.size.dims))


@pytest.fixture(scope="module")
def batch(clip) -> torch.Tensor:
    return torch.cat([pixels(clip, case) for case in golden_a.CASES])


@pytest.fixture(scope="module")
def features(clip, batch) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return clip(batch)


def test_pixels_are_the_references(clip, batch):
    found = clip.normalise(batch)[:, :, ::4, ::4]
    for case in golden_a.CASES:
        torch.testing.assert_close(found[case].numpy(), golden_a.of(case, "clip_pixel_values_sub4"), atol=1e-5, rtol=0)


def test_features_are_the_references(features):
    for case, found in enumerate(features[0]):
        name, step = ("clip_features", 1) if case in (0, 2) else ("clip_features_sub8", 8)
        torch.testing.assert_close(found[::step].numpy(), golden_a.of(case, name), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_patch_features_are_the_stages_side_by_side(clip, batch, features):
    assert clip.size.stages == (1, 2) and channels_of(clip.size.dims) == (48, 48)
    x = clip.layers[0](clip.embeddings(clip.normalise(batch)))[:, 1:]
    stages = features[1].unflatten(2, (2, 48))
    torch.testing.assert_close(stages.norm(dim=3), torch.ones(4, 256, 2))
    torch.testing.assert_close(stages[:, :, 0] * x.norm(dim=2, keepdim=True), x)
    torch.testing.assert_close(stages[:, :, 1] * features[0].norm(dim=2, keepdim=True), features[0])


def test_the_released_tower_has_the_dims_of_the_contract():
    size, dims = ClipSize(1024, 16, 4096, 23, 14, 224), MODELS["vision_encoder"].real_dims
    assert size.stages == (6, 12, 18, 23)
    assert dims["vision_pixels"] == (3, size.image_size, size.image_size) and dims["image_features"] == (size.tokens, size.width)
    assert dims["patch_features"] == (size.tokens, len(size.stages) * size.width)


def test_the_graph_equals_torch_with_any_batch(clip, batch, features, tmp_path):
    path, names = tmp_path / "model.onnx", ("image_features", "patch_features", "picture_evidence")
    write_onnx(clip, {"vision_pixels": torch.zeros(2, *batch.shape[1:], dtype=torch.uint8)}, names, path, {})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (slice(4), slice(1, 2)):
        for found, expected in zip(session.run(names, {"vision_pixels": batch[rows].numpy()}), features, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected[rows], atol=1e-5, rtol=1e-5)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("LayerNormalization") == 5 and kinds.count("Softmax") == 2 and kinds.count("Shape") <= 1
    assert not {"Conv", "If", "Loop", "ReduceMean", "Where"} & set(kinds)


# --- layouts ------------------------------------------------------------------------------------------------------------
def folder(path: Path, state: dict[str, torch.Tensor] | None = None, **config: object) -> Path:
    """A copy of the golden CLIP with other weights, or other values in the vision part of its configuration."""
    shutil.copytree(golden_a.CLIP, path)
    content = json.loads((path / "config.json").read_text())
    content["vision_config"] |= config
    (path / "config.json").write_text(json.dumps(content))
    if state is not None:
        torch.save(state, path / "pytorch_model.bin")
    return path


def weights() -> dict[str, torch.Tensor]:
    return torch.load(golden_a.CLIP / "pytorch_model.bin", weights_only=True)


def test_a_bare_vision_model_in_safetensors_with_a_new_preprocessor_is_the_same(tmp_path, batch, features):
    path = folder(tmp_path / "clip")
    (path / "pytorch_model.bin").unlink()
    save_file({name: value for name, value in weights().items() if name.startswith(PREFIX)}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(json.loads((path / "config.json").read_text())["vision_config"]))
    old = json.loads((path / "preprocessor_config.json").read_text())
    new = old | {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (path / "preprocessor_config.json").write_text(json.dumps(new))
    with torch.inference_mode():
        assert torch.equal(load_clip(path)(batch)[0], features[0])


@torch.inference_mode()
def test_another_layer_and_another_activation_are_read(tmp_path, clip, batch):
    last = load_clip(golden_a.CLIP, -1)
    assert last.size.layers == 3 and last.size.stages == (1, 2, 3)
    torch.testing.assert_close(last(batch)[0], last.layers[2](torch.cat((last_class(clip, batch), clip(batch)[0]), 1))[:, 1:])
    exact = load_clip(folder(tmp_path / "gelu", hidden_act="gelu"))(batch)[0]
    assert 1e-4 < (exact - clip(batch)[0]).abs().max() < 1


def last_class(clip: VisionEncoder, batch: torch.Tensor) -> torch.Tensor:
    x = clip.embeddings(clip.normalise(batch))
    for layer in clip.layers:
        x = layer(x)
    return x[:, :1]


def test_another_side_is_read_from_the_tensors(tmp_path):
    state = weights()
    state[f"{PREFIX}embeddings.position_embedding.weight"] = torch.zeros(1 + 24**2, 48)
    path = folder(tmp_path / "clip", state, image_size=336)
    (path / "preprocessor_config.json").write_text((path / "preprocessor_config.json").read_text().replace("224", "336"))
    size = load_clip(path).size
    assert (size.image_size, size.tokens, size.dims["tokens"]) == (336, 576, 576)


# --- refusals -----------------------------------------------------------------------------------------------------------
def broken(name: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    state = weights() | ({} if value is None else {name: value})
    if value is None:
        del state[name]
    return state


FC1 = f"{PREFIX}encoder.layers.1.mlp.fc1.bias"


@pytest.mark.parametrize(
    ("state", "config", "message"),
    [
        (broken(FC1, None), {}, f"tensor '{FC1}' is missing"),
        (broken(FC1, torch.full((128,), torch.nan)), {}, f"pytorch_model.bin: tensor '{FC1}' holds NaN or infinity"),
        (broken(FC1, torch.zeros(127)), {}, rf"tensor '{FC1}' has the shape \[127\], expected \[128\]"),
        (broken(f"{PREFIX}embeddings.class_embedding", None), {}, "no CLIP"),
        (None, {"image_size": 336}, "config.json: image_size is 336, but the tensors say 224"),
        (None, {"num_attention_heads": 5}, "num_attention_heads is 5, expected a divisor of the width 48"),
        (None, {"hidden_act": "relu"}, "hidden_act is 'relu', expected quick_gelu or gelu"),
    ],
)
def test_a_damaged_clip_is_refused_by_name(tmp_path, state, config, message):
    with pytest.raises(CheckpointError, match=message):
        load_clip(folder(tmp_path / "clip", state, **config))


def test_other_files_are_refused_by_name(tmp_path):
    path = folder(tmp_path / "clip")
    (path / "preprocessor_config.json").write_text((path / "preprocessor_config.json").read_text().replace("224", "336"))
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: pictures of \[336\] pixels, but the tensors are for 224"):
        load_clip(path)
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="clip/preprocessor_config.json: no such file"):
        load_clip(path)
    (path / "pytorch_model.bin").write_bytes((golden_a.CLIP / "pytorch_model.bin").read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="pytorch_model.bin: truncated or no PyTorch file"):
        open_shards(path)
    (path / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="clip: no weights; expected model.safetensors or pytorch_model.bin"):
        open_shards(path)
