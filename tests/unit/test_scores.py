"""The evaluation's figures on cases small enough to be worked out by hand, and against slow definitions."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import figures  # noqa: E402
import scores  # noqa: E402
from answers import Answer  # noqa: E402
from datasets import Picture  # noqa: E402


def counted(*pictures: tuple[np.ndarray, np.ndarray]) -> scores.Pixels:
    pixels = scores.Pixels()
    for heatmap, truth in pictures:
        pixels.add(np.asarray(heatmap, np.uint8), np.asarray(truth, np.uint8))
    return pixels


def test_images_by_hand() -> None:
    """Sorted by score: 0.9 defective, 0.6 good, 0.4 defective, 0.1 good."""
    found = scores.images([True, True, False, False], [0.9, 0.4, 0.6, 0.1])
    assert found["AUROC"] == pytest.approx(3 / 4)  # pairs in the right order
    assert found["AP"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found["F1-max"] == pytest.approx(0.8)  # at 0.4: precision 2/3, recall 1
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["balanced"] == pytest.approx(0.5)
    assert found["best balanced"] == pytest.approx(0.75)  # at 0.9: half found, none wrong


def test_the_decision_is_at_half_and_half_is_an_anomaly() -> None:
    assert scores.images([True, False], [0.5, 0.4999])["accuracy"] == 1.0


def test_a_perfect_map() -> None:
    truth = np.zeros((4, 5))
    truth[1:3, 1:3] = 1
    pixels = counted((truth * 255, truth), (np.zeros((4, 5)), np.zeros((4, 5))))
    assert pixels.auroc() == 1.0 and pixels.aupro() == pytest.approx(1.0)


def test_a_map_that_says_nothing() -> None:
    """From (0, 0) straight to (1, 1): 0.3 * 0.3 / 2 of 0.3."""
    truth = np.zeros((4, 5))
    truth[0, 0] = 1
    pixels = counted((np.full((4, 5), 9), truth))
    assert pixels.auroc() == 0.5 and pixels.aupro() == pytest.approx(0.15)


def test_every_region_counts_the_same_in_aupro_and_every_pixel_in_auroc() -> None:
    """Of two regions, 1 and 9 pixels, only the small one is seen: (0, 0.5) straight to (1, 1), which is 0.65 at 0.3."""
    truth, heatmap = np.zeros((8, 8)), np.zeros((8, 8))
    truth[0, 0], truth[4:7, 4:7], heatmap[0, 0] = 1, 1, 200
    pixels = counted((heatmap, truth))
    assert pixels.aupro() == pytest.approx((0.5 + 0.65) / 2)
    assert pixels.auroc() == pytest.approx((1 + 9 * 0.5) / 10)


def test_aupro_stops_at_its_limit() -> None:
    """2 of 10 normal pixels come first, then the whole defect: 0 up to 0.2, then 1 up to 0.3."""
    heatmap, truth = np.zeros((1, 12)), np.zeros((1, 12))
    heatmap[0, :2], heatmap[0, 10:], truth[0, 10:] = 255, 100, 1
    pixels = counted((heatmap, truth))
    assert pixels.aupro() == pytest.approx(1 / 3)
    assert pixels.aupro(limit=1.0) == pytest.approx(0.8)
    assert pixels.auroc() == pytest.approx(0.8)


def test_regions_hang_together_over_corners() -> None:
    assert len(counted((np.zeros((3, 3)), np.eye(3))).regions) == 1


def test_against_the_slow_definitions() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 256, (3, 24, 30))
    truths = np.zeros((3, 24, 30), np.uint8)
    truths[0, 2:9, 3:8], truths[0, 15:20, 20:28], truths[1, 5:7, 5:25] = 1, 1, 1
    maps = np.clip(maps * 0.7 + truths * 60, 0, 255).astype(np.uint8)
    pixels = counted(*zip(maps, truths, strict=True))
    assert pixels.auroc() == pytest.approx(roc_auc_score(truths.ravel(), maps.ravel()))
    assert pixels.aupro() == pytest.approx(slow_aupro(maps, truths), abs=1e-9)


def slow_aupro(maps: np.ndarray, truths: np.ndarray, limit: float = 0.3) -> float:
    """Threshold by threshold, as in the paper; the curve's pieces up to the limit are added one by one."""
    labels = [ndimage.label(truth, np.ones((3, 3)))[0] for truth in truths]
    curve = [(0.0, 0.0)]
    for threshold in range(255, -1, -1):
        marked = maps >= threshold
        found = [marked[i][label == k].mean() for i, label in enumerate(labels) for k in range(1, label.max() + 1)]
        curve.append((float(marked[truths == 0].mean()), float(np.mean(found))))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve[:-1], curve[1:], strict=True):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def test_no_ground_truth_gives_no_figure() -> None:
    pixels = counted((np.zeros((3, 3)), np.zeros((3, 3))))
    assert pixels.auroc() is None and pixels.aupro() is None


def test_a_ground_truth_never_vanishes_when_made_small() -> None:
    truth = np.zeros((400, 400), np.uint8)
    truth[201, 100] = 255
    assert scores.resized(truth, (50, 50)).sum() == 1
    truth[100:200, 100:200] = 255
    assert scores.resized(truth, (50, 50)).sum() == pytest.approx(12.5**2, rel=0.1)


def test_iou_by_hand() -> None:
    one, other = np.zeros((4, 4)), np.zeros((4, 4))
    one[0, :3], other[0, 1:] = 1, 255
    assert scores.iou(one, other) == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("text", "defective", "right"),
    [("Yes, there is a crack.", True, True), ("No, there is no anomaly.", False, True), ("Yes", False, False), ("", True, False)],
)
def test_yes_and_no_are_counted_as_anomalygpt_does(text: str, defective: bool, right: bool) -> None:
    assert scores.said_right(text, defective) is right


def test_mean_and_spread() -> None:
    assert scores.mean_and_spread([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert scores.mean_and_spread([0.7]) == (0.7, 0.0)


def test_the_spread_of_the_mean_is_over_seeds_not_over_classes() -> None:
    values = {("a", 0): 0.8, ("a", 1): 0.9, ("b", 0): 0.6, ("b", 1): 0.5}
    rows = [{"class": name, "shots": "4", "seed": seed, "SCORE AUROC": value} for (name, seed), value in values.items()]
    found = {line["class"]: (line["mean"], line["sd"]) for line in figures.summary(rows)}
    assert found == {"a": (0.85, 0.0707), "b": (0.55, 0.0707), "mean": (0.7, 0.0)}


def test_a_picture_that_was_not_inspected_is_counted_and_in_no_other_figure(tmp_path: Path) -> None:
    truth = np.zeros((4, 4), np.uint8)
    truth[0, :3] = 255
    Image.fromarray(truth).save(tmp_path / "bad_mask.png")
    bad, good = Picture(tmp_path, "bad", "crack", tmp_path / "bad_mask.png"), Picture(tmp_path, "good", "good")
    mask = np.zeros((4, 4), np.uint8)
    mask[0, 1:] = 1
    empty = np.zeros((4, 4), np.uint8)
    found = figures.figures(
        [
            Answer(bad, 10.0, score=0.8, text="Yes, a crack.", mask=mask, expert=0.7, heatmap=truth),
            Answer(good, 30.0, score=0.6, text="Yes, a crack.", mask=mask, expert=0.2, heatmap=empty),
            Answer(bad, 99.0, error="INTERNAL"),
        ]
    )
    assert found["answer missing"] == 1 and found["answer ms p50"] == 20.0
    assert (found["SCORE AUROC"], found["SCORE accuracy"], found["expert accuracy"]) == (1.0, 0.5, 1.0)
    assert (found["answer mask IoU"], found["answer yes or no"]) == (0.5, 0.5)
    assert (found["expert pixel AUROC"], found["expert AUPRO"]) == (1.0, pytest.approx(1.0))


def test_a_kind_is_judged_against_the_good_pictures_of_its_own_class_and_seed() -> None:
    common = {"shots": "4", "seed": 0, "error": "", "mask_iou": None, "score": None}
    values = (("a", "good", 0.1), ("a", "crack", 0.2), ("a", "dent", 0.05), ("b", "good", 0.8), ("b", "crack", 0.9))
    rows = [common | {"class": name, "kind": kind, "defective": int(kind != "good"), "expert": value} for name, kind, value in values]
    found = {line["kind"]: (line["expert AUROC"], line["SCORE AUROC"], line["classes x seeds"]) for line in figures.kinds(rows)}
    assert found == {"crack": (1.0, "", 2), "dent": (0.0, "", 1)}
