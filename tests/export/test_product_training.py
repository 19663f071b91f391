"""`make train DATA=…` in small: drawn normal pictures in, a profile that loads out.

A few steps teach nothing; the path is what is tested.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.lisa.runner import load_model
from sightline_ensemble.serve import launcher
from sightline_export.tiny import WEIGHTS
from sightline_training import products
from sightline_training.product_data import Counts, Pictures
from sightline_training.products import Order, Steps

GRAPHS = ("sam_encoder", "sam_decoder", "vision_encoder", "lisa_decoder")
STEPS = Steps(Counts(6, 4), neck=2, decoder=2, language=1, states=8)


def draw(path: Path, seed: int, defective: bool = False) -> None:
    """A striped square on a plain ground, with a dark hole."""
    rng = np.random.default_rng(seed)
    pixels = np.full((96, 96, 3), 210, np.float32)
    pixels[20:76, 20:76] = 110 + 50 * np.sin(np.arange(56) / 3 + seed)[None, :, None]
    if defective:
        pixels[40:52, 40:52] = 5
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One class in MVTec's layout: five normal pictures, and a test part of two."""
    root = tmp_path_factory.mktemp("data") / "tile"
    for i in range(5):
        draw(root / "train" / "good" / f"{i}.png", i)
    draw(root / "test" / "good" / "0.png", 10)
    draw(root / "test" / "hole" / "0.png", 11, defective=True)
    mask = np.zeros((96, 96), np.uint8)
    mask[40:52, 40:52] = 255
    (root / "ground_truth" / "hole").mkdir(parents=True)
    Image.fromarray(mask).save(root / "ground_truth" / "hole" / "0_mask.png")
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    place = tmp_path_factory.mktemp("trained")
    order = Order(data, "tiles", place / "weights", place / "work", place / "repository", steps=STEPS)
    with pytest.MonkeyPatch.context() as patch:  # a minute of tracing: `test_a_profile_that_loads` does it
        patch.setattr(products, "export_tiny", lambda *arguments: None)
        products.train(order, Console(quiet=True))
    return order


@pytest.mark.sizes
def test_a_profile_that_loads(trained: Order) -> None:
    (trained.work / "tiles" / "export.done").unlink()
    products.train(trained, Console(quiet=True))
    launcher.check_artefacts(trained.repository, "tiles")
    for model in GRAPHS:
        onnxruntime.InferenceSession(str(load_manifest(trained.repository / model, "tiles").path("model.onnx")))
    model = load_model(trained.repository / "lisa_engine" / "1" / "tiles")
    verdict = model.config.verdict
    assert verdict is not None and np.isfinite([verdict.scale, verdict.bias]).all()


def test_what_is_trained_and_what_stays(trained: Order) -> None:
    """The decoder of boxes and points and the embedding it reads are the shipped ones; everything of the verdict is not."""
    made = {path.name: load_file(path) for path in (trained.out / "tiles").glob("*.safetensors")}
    shipped = {path.name: load_file(path) for path in WEIGHTS.glob("*.safetensors")}
    assert made.keys() == shipped.keys() and all(made[name].keys() == shipped[name].keys() for name in made)
    changed = {name: {key for key, value in made[name].items() if not torch.equal(value, shipped[name][key])} for name in made}
    assert not changed["parts.safetensors"] and not [key for key in changed["sam.safetensors"] if key.startswith("neck.")]
    assert {"added_head", "text_hidden_fcs.2.bias"} <= changed["language.safetensors"]
    assert changed["sam.safetensors"] and changed["vision.safetensors"]


def test_the_test_part_only_judges(trained: Order) -> None:
    train, held, test = (Pictures(trained.work / "tiles", name) for name in ("train", "held", "test"))
    assert (len(train), len(held), len(test)) == (9, 6, 2)
    assert {row.defect for row in train.rows + held.rows} <= {"good", "patch", "scratch", "spot"}
    for pictures in (train, held):
        assert np.array_equal(pictures.masks.any((1, 2, 3)), pictures.defective)
    report = json.loads((trained.work / "tiles" / "report.json").read_text())
    assert [(row["pictures"], row["count"]) for row in report] == [("held back", 6), ("test part", 2)]
    assert all(0 <= row[name] <= 1 for row in report for name in ("accuracy", "verdict AUROC", "pixel AUROC", "IoU"))


def test_stages_that_ended_are_not_run_again(trained: Order, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products.product_data, "prepare", None)
    monkeypatch.setattr(products, "export_tiny", None)
    products.train(trained, Console(quiet=True))
    draw(data / "train" / "good" / "new.png", 20)
    with pytest.raises(ValueError, match="begun with other pictures"):
        products.train(trained, Console(quiet=True))


@pytest.mark.parametrize("name", ["tiny", "No Name", "../up"])
def test_names_that_are_refused(data: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name for a profile"):
        products.train(Order(data, name, tmp_path, tmp_path, tmp_path), Console(quiet=True))
    assert not list(tmp_path.iterdir())
