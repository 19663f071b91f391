"""What the language model of a user's profile is taught to say, and how its verdict is calibrated."""

import numpy as np
import pytest
from sightline_ensemble.contract import DEFAULT_PROMPT, LOCATIONS
from sightline_training.product_pack import balanced, figures, spread
from sightline_training.product_words import MOST_PLACES, answer, description, places, question


def mask_with(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((60, 60), bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


def test_places_are_named_by_size_and_once():
    assert places(mask_with((2, 45, 6, 6), (45, 25, 9, 9))) == ["bottom", "top right"]
    assert places(mask_with((2, 2, 4, 4), (10, 10, 5, 5))) == ["top left"]
    assert places(mask_with((25, 25, 12, 12), (2, 2, 1, 1))) == ["center"]  # a speck beside a large one
    corners = [(2, 2, 8, 8), (2, 50, 8, 8), (50, 2, 8, 8), (50, 50, 8, 8)]
    assert len(places(mask_with(*corners))) == MOST_PLACES


def test_answers_are_anomalygpts():
    assert answer([]) == "No, there is no anomaly in the image."
    assert answer(["top left"]) == "Yes, there is an anomaly in the image, at the top left of the image."
    assert answer(["top", "left"]) == "Yes, there are 2 anomalies in the image, they are at the top and left of the image."
    assert answer(["top", "left", "center"]).endswith("they are at the top, left and center of the image.")


def test_questions():
    rng = np.random.default_rng(0)
    asked = [question(rng, "metal_nut", ["top"], True) for _ in range(300)]
    assert sum(text == DEFAULT_PROMPT for text in asked) > 60
    assert any(text.startswith(description("metal_nut")) and "metal nut" in text for text in asked)
    hinted = [text for text in asked if "few-shot expert finds an" in text]
    assert hinted and sum("at the top of" in text for text in hinted) > 0.6 * len(hinted)
    assert not any("cell" in text for text in asked) and all(any(word in text for word in LOCATIONS) for text in hinted)


def test_calibration_takes_no_side():
    """Twice as many defective pictures do not move the decision."""
    rng = np.random.default_rng(0)
    truth = np.arange(600) % 3 < 2
    logits = rng.normal(np.where(truth, 3.0, 1.0), 1.0)
    scale, bias = balanced(logits, truth)
    assert scale > 0 and -bias / scale == pytest.approx(2.0, abs=0.15)


def test_rows_are_spread_evenly():
    assert spread(5, 9).tolist() == [0, 1, 2, 3, 4] and spread(100, 3).tolist() == [0, 49, 99]


def test_figures_of_a_hand_made_case():
    """Two defective pictures of four: one mask is half found, the other one exactly; verdicts are all right but one."""
    import torch
    from sightline_training.product_data import Row
    from sightline_training.product_pack import Found

    class Set:
        rows = [Row("a", "hole", True), Row("a", "good", False), Row("a", "good", False), Row("a", "hole", True)]
        defective = np.array([True, False, False, True])
        masks = np.zeros((4, 1, 128, 128), bool)

    Set.masks[0, 0, :10, :10] = Set.masks[3, 0, 50:60, 50:60] = True
    logits = torch.full((4, 128, 128), -3.0)
    logits[0, :10, :5] = logits[3, 50:60, 50:60] = 3.0
    found = figures(Set(), Found(np.array([2.0, -1.0, 0.5, 1.0]), logits), np.arange(4))
    assert found["accuracy"] == 0.75 and found["verdict AUROC"] == 1.0 and found["IoU"] == 0.75
    assert found["pixel AUROC"] == pytest.approx(0.875) and found["count"] == 4
