"""Bank, calibration, hint, heatmap, store, cut-out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sightline_ensemble import bank, cutout, hint
from sightline_ensemble.errors import RequestError
from sightline_ensemble.store import Recipe, Store, bank_name

CHANNELS = (8, 4)


def patches(seed: int, odd: float = 0.0) -> np.ndarray:
    """float32 [64, 12]: noise around two directions; `odd` turns the first patch away."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(64, 12)) * 0.05 + 1
    values[0] += odd * np.array([1, -1] * 6)
    return np.concatenate([v / np.linalg.norm(v, axis=1, keepdims=True) for v in (values[:, :8], values[:, 8:])], axis=1).astype(np.float32)


def test_map_is_the_formula():
    query, keys = patches(0, 2), patches(1)
    expected = 1 - ((query[:, :8] @ keys[:, :8].T).max(1) + (query[:, 8:] @ keys[:, 8:].T).max(1)) / 2
    assert np.allclose(bank.raw_map(query, keys, CHANNELS), expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 10])
def test_calibration_decides_at_a_half(count):
    normal = [patches(i) for i in range(count)]
    changed = [[patches(100 * (i + 1) + j) for j in range(8)] for i in range(count)] if count < bank.SMALL else []
    found = bank.build(normal, CHANNELS, changed)
    score = lambda p: float(found.calibration(bank.raw_score(bank.raw_map(p, found.features, CHANNELS))))  # noqa: E731
    fresh = [score(patches(1000 + i)) for i in range(40)]
    assert np.mean(np.array(fresh) >= 0.5) <= 0.2 and score(patches(5, 1.5)) > 0.9


def test_bank_is_bounded():
    found = bank.build([patches(i) for i in range(200)], CHANNELS)
    assert len(found.features) == bank.CAPACITY and found.images == 200
    assert found.joined(found).images == 400


def test_sentences():
    assert hint.sentence(0.2, []) == "The few-shot expert finds no anomaly (score 0.20)."
    assert hint.sentence(0.91, ["top"]) == "The few-shot expert finds an anomaly at the top of the image (score 0.91)."
    assert hint.sentence(0.5, ["top", "left", "center"]).startswith(
        "The few-shot expert finds anomalies at the top, left and center of the image"
    )


def test_places_and_heatmap_with_a_box():
    grid = np.zeros((8, 8))
    grid[0, 0] = grid[7, 7] = 0.9
    grid[7, 6] = 0.8
    assert hint.places(grid, 0.5, (0, 0, 90, 90), 90, 90) == ["bottom right", "top left"]
    assert hint.places(grid, 0.5, (60, 60, 90, 90), 90, 90) == ["bottom right"]
    assert hint.places(2 * grid, 0.5, (0, 0, 90, 90), 90, 90) == ["bottom right", "top left"]
    grid[0, 0] = 0.53  # above the limit, but faint beside the strongest
    assert hint.places(grid, 0.5, (0, 0, 90, 90), 90, 90) == ["bottom right"] and hint.places(grid, 1.0, (0, 0, 90, 90), 90, 90) == []
    picture = hint.heatmap(np.ones((8, 8)), (100, 0, 300, 400), 400, 1000, 256)
    assert picture.shape == (102, 256) and (picture[:, 26:77] == 255).all() and not picture[:, :25].any() and not picture[:, 78:].any()


def test_store(tmp_path):
    found = bank.build([patches(i) for i in range(5)], CHANNELS)
    calibration = {"center": 0.1, "width": 0.1, "samples": 5}
    recipe = Recipe("cell", "d", "", (0.0, 0.0, 5.0, 5.0), 5, "now", bank_name(found), "sha256:x", calibration)
    one, other = Store(tmp_path), Store(tmp_path)
    one.enroll(recipe, found)
    assert other.names() == ["cell"] and other.recipe("cell") == recipe
    assert np.allclose(other.bank("cell").features, found.features, atol=1e-3)
    second = bank.build([patches(i) for i in range(6)], CHANNELS)
    one.enroll(replace(recipe, images=6, bank=bank_name(second)), second)
    assert other.bank("cell").images == 6 and len(list((tmp_path / "banks").iterdir())) == 1
    assert json.loads((tmp_path / "cell.json").read_text())["images"] == 6
    one.remove("cell")
    assert not list((tmp_path / "banks").iterdir()) and other.names() == []
    with pytest.raises(RequestError, match="NOT_FOUND: PRODUCT"):
        other.recipe("cell")


def test_background_contrasts():
    mask = np.zeros((4, 4), np.uint8)
    mask[0] = 1
    for tone, fill in ((20, 255), (127, 255), (128, 0), (240, 0)):
        out = cutout.without_background(np.full((4, 4, 3), tone, np.uint8), mask)
        assert (out[0] == tone).all() and (out[1:] == fill).all()


def test_vision_geometry():
    part = np.zeros((30, 50, 3), np.uint8)
    part[:, 10:40] = 255
    crop = {"image_size": 16, "resize": "short_edge_center_crop", "resample": "bicubic"}
    assert cutout.vision_pixels(part, crop).shape == (1, 3, 16, 16) and cutout.vision_pixels(part, crop).min() > 0
    assert cutout.vision_pixels(part, crop | {"resize": "squash"}).min() == 0
    assert cutout.seen_window((0, 0, 50, 30), crop) == (10, 0, 40, 30)
