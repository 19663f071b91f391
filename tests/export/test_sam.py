"""`sightline-export sam` on small checkpoints: what is installed, what is refused, and that nothing half-written stays."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from sightline_ensemble.artefacts import load_manifest, verify
from sightline_export import onnx_file, parity, sam_encoder
from sightline_export import sam as sam_export
from sightline_export.cli import main
from sightline_export.parity import Bar

from .conftest import SMALL

STEPS = ("sam_encoder", "sam_decoder")


def export(path: Path, repository: Path, *more: str, model: str = "vit_b") -> int:
    line = ["sam", "--model", model, "--checkpoint", str(path), "--repository", str(repository), "--csv", str(repository / "parity.csv")]
    return main([*line, "--pictures", "1", *more])


def files(repository: Path) -> set[str]:
    return {str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()}


def contents(repository: Path) -> dict[str, bytes]:
    return {name: (repository / name).read_bytes() for name in files(repository)}


@pytest.fixture(scope="module")
def installed(small, tmp_path_factory) -> Path:
    """One export for all tests that only look: a folder with the checkpoint and its repository `r`."""
    folder = tmp_path_factory.mktemp("installed")
    torch.save(small.state_dict(), folder / "sam_vit_b_small.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sam_encoder.SIZES, "vit_b", SMALL)
        assert export(folder / "sam_vit_b_small.pth", folder / "r", "--pictures", "2", "--precision", "fp16", "bf16") == 0
    return folder


@pytest.fixture
def traced(installed, monkeypatch) -> None:
    """The small checkpoint's graphs without tracing them again."""

    def copy(sam: object, encoder: Path, decoder: Path, tick: object) -> None:
        for step, folder in zip(STEPS, (encoder, decoder), strict=True):
            onnx_file.save(ir.load(installed / "r" / step / "1/real/model.onnx"), folder / "model.onnx")

    monkeypatch.setattr(sam_export, "export_fp32", copy)


def test_installs_every_precision_with_its_proof(installed):
    repository = installed / "r"
    names = {"model.onnx", "model.fp16.onnx", "model.bf16.onnx", "manifest.json"}
    assert files(repository) == {f"{step}/1/real/{name}" for step in STEPS for name in names} | {"parity.csv"}
    for step in STEPS:
        manifest = load_manifest(repository / step, "real")
        verify(manifest)
        assert set(manifest.parity) == {"fp32", "fp16", "bf16"} and manifest.source.keys() == {"sam_vit_b_small.pth"}
        assert manifest.parity["fp32"]["max_error"] < 2e-4 and manifest.parity["fp16"]["pictures"] == 2
        assert manifest.parity["fp32"]["max_error"] < manifest.parity["fp16"]["max_error"] < manifest.parity["bf16"]["max_error"]
    with (repository / "parity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["precision"] for row in rows} == {"fp32", "fp16", "bf16"} and all(float(row["iou_box"]) > 0.9 for row in rows)
    content = json.loads((repository / "sam_encoder/1/real/manifest.json").read_text())
    assert content["dims"] == {"model": "vit_b", "image_size": 1024, "grid": 64} and content["precision"] == "fp32"


def test_installed_artefacts_are_judged_again(installed, as_vit_b, tmp_path, capsys, monkeypatch):
    line = ["parity", "--model", "vit_b", "--checkpoint", str(installed / "sam_vit_b_small.pth"), "--repository", str(installed / "r")]
    line += ["--csv", str(tmp_path / "again.csv"), "--pictures", "1", "--precision", "fp16"]
    before = contents(installed / "r")
    assert main(line) == 0 and contents(installed / "r") == before
    assert (tmp_path / "again.csv").read_text().count("fp16") == 1 and "reached" in capsys.readouterr().out
    monkeypatch.setitem(parity.BARS, "fp16", Bar(np.inf, 1.01, 1.01))
    assert main(line) == 1 and "vit_b fp16" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["box", "points", "both"])
def test_several_prompts_of_a_picture_answer_as_metas_predictor(small, installed, kind):
    encoder, decoder = (
        onnxruntime.InferenceSession(installed / "r" / step / "1/real/model.onnx", providers=["CPUExecutionProvider"]) for step in STEPS
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1024, 700)).astype(np.uint8)
    square = np.zeros((1, 3, 1024, 1024), np.uint8)
    square[0, :, :, :700] = pixels
    embedding = encoder.run(None, {"sam_pixels": square, "resized_size": np.array([[1024, 700]], np.int32)})[0]
    boxes = np.array([[[40, 60], [500, 700]], [[10, 10], [300, 300]]], np.float32)
    points = np.array([[[200, 300], [600, 50]], [[100, 90], [30, 800]]], np.float32)
    feed = {
        "box": (boxes, [2, 3]),
        "points": (np.concatenate([points, np.zeros((2, 1, 2), np.float32)], 1), [1, 0, -1]),
        "both": (np.concatenate([points, boxes], 1), [1, 0, 2, 3]),
    }[kind]
    labels = np.tile(np.array(feed[1], np.float32), (1, 2, 1))
    masks, ious = decoder.run(None, {"image_embedding": embedding, "point_coords": feed[0][None], "point_labels": labels})
    with torch.inference_mode():
        image = {"image": torch.from_numpy(pixels).float(), "original_size": (1024, 700)}
        if kind != "points":
            image["boxes"] = torch.from_numpy(boxes.reshape(2, 4))
        if kind != "box":
            image |= {"point_coords": torch.from_numpy(points), "point_labels": torch.tensor([[1, 0], [1, 0]])}
        expected = small([image], multimask_output=False)[0]
    np.testing.assert_allclose(masks[0], expected["low_res_logits"][:, 0], atol=2e-3)
    np.testing.assert_allclose(ious[0], expected["iou_predictions"][:, 0], atol=1e-4)


def overflowing(state: dict) -> None:
    """Like the released vit_h in fp16: one channel of the residual stream grows beyond 65504, and only there."""
    state["image_encoder.pos_embed"][..., 7] += 5e4
    state["image_encoder.blocks.1.mlp.lin2.bias"][7] += 4e4


def test_what_overflows_is_found_by_measuring_and_kept_in_fp32(checkpoint, tmp_path):
    assert export(checkpoint(overflowing), tmp_path / "r", "--precision", "fp16") == 0
    assert load_manifest(tmp_path / "r/sam_encoder", "real").parity["fp16"]["kept_in_fp32"] == "pixels, norms, points, neck, residual"
    rows = list(csv.DictReader((tmp_path / "r/parity.csv").open()))
    assert any(row["precision"] == "fp16" and row["finite"] == "False" for row in rows)


def test_below_the_bar_nothing_is_installed(checkpoint, traced, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(parity.BARS, "bf16", Bar(np.inf, 1.01, 1.01))
    assert export(checkpoint(), tmp_path / "r", "--precision", "bf16") == 1
    assert files(tmp_path / "r") == {"parity.csv"}
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "vit_b bf16" in line and "1.01" in line and "nothing was installed" in line


def test_an_interrupted_export_leaves_the_old_one(checkpoint, traced, tmp_path, monkeypatch):
    repository = tmp_path / "r"
    assert export(checkpoint(), repository) == 0
    before = contents(repository)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sam_export, "judge_fp32", interrupt)
    assert export(checkpoint(), repository) == 130
    assert contents(repository) == before and not list(repository.rglob("*staging*"))


def test_large_weights_lie_beside_the_graph(checkpoint, traced, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "EXTERNAL", 100_000)
    assert export(checkpoint(), tmp_path / "r", "--precision", "fp16") == 0
    manifest = load_manifest(tmp_path / "r/sam_encoder", "real")
    assert set(manifest.files) == {"model.onnx", "model.onnx.data", "model.fp16.onnx", "model.fp16.onnx.data"}
    verify(manifest)
    assert manifest.path("model.onnx").stat().st_size < 300_000


class Code:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _renamed(state: dict) -> None:
    state["image_encoder.extra"] = state.pop("image_encoder.neck.0.weight")


def _nan(state: dict) -> None:
    state["mask_decoder.iou_token.weight"][0, 3] = float("nan")


def _rows(state: dict) -> None:
    state["image_encoder.blocks.0.attn.rel_pos_w"] = torch.zeros(31, 16)


REFUSALS = {
    "truncated": (lambda make, p: _write(p, make().read_bytes()[:9999]), "truncated or no PyTorch file"),
    "empty": (lambda make, p: _write(p, b""), "truncated or no PyTorch file"),
    "picture": (lambda make, p: _write(p, b"\x89PNG" * 99), "truncated or no PyTorch file"),
    "garbage that begins as a pickle": (lambda make, p: _write(p, b"\x80\x02garbage" * 99), "truncated or no PyTorch file"),
    "half a pickle": (lambda make, p: _write(p, pickle.dumps({"a": "b" * 99}, 2)[:50]), "truncated or no PyTorch file"),
    "code": (lambda make, p: _saved(p, {"image_encoder.pos_embed": Code()}), "holds more than tensors"),
    "bare pickle with code": (lambda make, p: _write(p, pickle.dumps(Code(), 2)), "holds more than tensors"),
    "another model": (lambda make, p: _saved(p, {"conv1.weight": torch.zeros(3)}), "no SAM checkpoint"),
    "wrapped": (lambda make, p: _saved(p, {"model": {"a": torch.zeros(3)}}), "not a plain dictionary of tensors"),
    "missing tensor": (lambda make, p: make(_renamed), "'image_encoder.neck.0.weight' is missing"),
    "NaN": (lambda make, p: make(_nan), "'mask_decoder.iou_token.weight' holds NaN"),
    "other window": (lambda make, p: make(_rows), "rel_pos_w' has the shape [31, 16], expected [27, 16]"),
    "missing file": (lambda make, p: p, "no such file"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_wrong_checkpoint_is_refused_in_one_line(case, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, text = REFUSALS[case]
    path = make(checkpoint, tmp_path / "given.pth")
    assert export(path, tmp_path / "r") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert text in line and path.name in line and str(tmp_path) not in line
    assert not (tmp_path / "was-run").exists() and not list((tmp_path / "r").rglob("*"))


def test_the_wrong_name_is_refused_with_the_right_one(checkpoint, tmp_path, capsys):
    assert export(checkpoint(), tmp_path / "r", model="vit_l") == 1
    assert "is vit_b (width 48, 3 blocks, 3 heads), expected vit_l (width 1024, 24 blocks, 16 heads)" in capsys.readouterr().err


def test_no_pictures_to_judge_by(checkpoint, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    assert export(checkpoint(), tmp_path / "r", "--images", str(tmp_path / "pictures")) == 1
    assert "pictures holds 0 pictures, expected 1" in capsys.readouterr().err and not list((tmp_path / "r").rglob("model*"))
