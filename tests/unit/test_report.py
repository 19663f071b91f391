"""Report, defects, upsampling, run-length encoding: no contradiction is possible, whatever the logits."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco
from sightline_ensemble import defects, picture, regions, report, upsample, verdict
from sightline_ensemble.errors import RequestError
from sightline_ensemble.fusion import Fusion, Weights

SIZES = ((300, 200), (97, 513), (900, 700))


def logits(seed: int = 0, side: int = 64) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(side, side)).astype(np.float32), (7, 7), 2) * 10


def inputs(slots, probability, size, box=None, part=None) -> dict[str, np.ndarray]:
    text = lambda value: np.array([value], object)  # noqa: E731
    return {
        "experts": text(b"[]"), "expert_map": np.zeros((8, 8), np.uint8), "picture_evidence": np.zeros((1, 2), np.float32),
        "seg_count": np.array([len(slots)], np.int32), "seg_probability": np.array([probability], np.float32),
        "defect_masks": np.stack([*slots, np.full((64, 64), -20, np.float32)])[None],
        "part_masks": (logits(9) if part is None else part)[None, None], "part_ious": np.ones((1, 1), np.float32),
        "original_size": np.array(size, np.int32), "resized_size": np.array([picture.sam_size(*size, 256)], np.int32),
        "part_box": np.array([box], np.float32) if box else np.zeros((0, 4), np.float32),
    }  # fmt: skip


def answered(given: dict[str, np.ndarray], fusion: Fusion | None = None) -> tuple[dict, dict]:
    """The report of these inputs, and every output."""
    found = verdict.verdict(given, frozenset({"MASK"}), fusion)
    said = {"answer": np.array([b"Yes"], object), "question": np.array([b"q"], object), "tokens": np.array([3], np.int32)}
    found |= report.report(found | said | {"experts": given["experts"]}, "p", {})
    return json.loads(found["REPORT"][0]), found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("probability", [-1, 0.2, 0.499999, 0.5, 0.9])
@pytest.mark.parametrize("box", [None, (20, 30, 90, 80), (20, 30, 21, 31)])
@pytest.mark.parametrize("slot", [logits(), np.full((64, 64), -20, np.float32), logits() - 50])
@pytest.mark.parametrize("block", [4096, 100])
def test_no_contradiction(size, probability, box, slot, block, monkeypatch):
    monkeypatch.setattr(defects, "_LABEL_SIDE", block)
    said, found = answered(inputs([slot], probability, size, box))
    mask = found["MASK"]
    facts = {
        said["verdict"] == "anomaly",
        said["score"] >= 0.5,
        bool(found["SCORE"][0] >= 0.5),
        bool(mask.any()),
        bool(said["defects"]),
        bool(said["locations"]),
    }
    assert len(facts) == 1 and mask.shape == size
    if probability >= 0:
        assert (probability >= 0.5) in facts
    union = np.zeros(size, np.uint8)
    for defect in said["defects"]:
        one = coco.decode(defect["rle"])
        lines, columns = np.nonzero(one)
        assert one.sum() == defect["area"] and not (union & one).any()
        assert defect["box"] == [columns.min(), lines.min(), columns.max() + 1, lines.max() + 1]
        union |= one
    assert (union == mask).all()
    if box:
        assert not (mask & ~coco.decode(said["part"]["rle"])).any()


def test_a_speck_is_dropped_where_a_verdict_decides_and_kept_where_the_masks_do():
    slot = np.full((64, 64), -20, np.float32)
    slot[8:24, 8:24] = slot[50, 50] = 20
    found = {p: answered(inputs([slot], p, (512, 512)))[1]["MASK"] for p in (-1, 0.9)}
    assert (found[-1] != found[0.9]).any() and not found[0.9][300:, 300:].any()
    rows = upsample.upsampler(slot, (256, 256), (512, 512), np.arange(512))
    assert (found[-1] == (rows(np.arange(512)) > 0)).all()


def test_later_slots_only_add():
    first, second = logits(1), logits(2)
    for probability in (-1, 0.7):
        masks = [answered(inputs(s, probability, (120, 90)))[1]["MASK"] for s in ([first], [first, second])]
        assert masks[0].any() and not (masks[0] & ~masks[1]).any() and masks[1].sum() > masks[0].sum()


def test_broken_numbers_are_an_error():
    for slots, probability in (([logits() * np.nan], 0.9), ([logits()], np.nan), ([], 0.9)):
        with pytest.raises(RequestError, match="INTERNAL: verdict"):
            answered(inputs(slots, probability, (50, 50)))


def test_timings_add_up():
    clocks = {"decode_clock": np.array([[0, 10**6]]), "cutout_clock": np.array([[2 * 10**6, 5 * 10**6]])}
    found = report.timings(clocks | {"verdict_clock": np.array([[0, 7 * 10**6]])}, 9 * 10**6)
    spent = {"decode": 1.0, "cutout": 4.0, "verdict": 2.0, "report": 2.0, "total": 9.0}
    assert found == {"timings_ms": spent, "time_to_mask_ms": 7.0}


def test_an_answer_from_the_cache_took_no_time():
    """Its clock is that of the first time it was computed."""
    clocks = {"decode_clock": np.array([[50, 60]]) * 10**6, "sam_encoder_clock": np.array([[1, 40]]) * 10**6}
    found = report.timings(clocks | {"verdict_clock": np.array([[60, 65]]) * 10**6}, 70 * 10**6)
    assert found["timings_ms"] == {"decode": 10.0, "sam_encoder": 0.0, "verdict": 5.0, "report": 5.0, "total": 20.0}


@pytest.mark.parametrize("size", SIZES)
def test_upsampling_is_two_bilinear_steps(size):
    low, resized = logits(3), picture.sam_size(*size, 256)
    square = cv2.resize(low, (256, 256))[: resized[0], : resized[1]]
    rows = upsample.upsampler(low, resized, size, np.arange(5, size[1]))(np.arange(7, size[0]))
    if min(size[0] / resized[0], size[1] / resized[1]) >= 1:  # OpenCV's formula is torch's where it enlarges
        assert np.abs(rows - cv2.resize(np.ascontiguousarray(square), size[::-1])[7:, 5:]).max() < 1e-3
    assert rows.shape == (size[0] - 7, size[1] - 5)


def test_rle_is_cocos():
    mask = (np.random.default_rng(0).random((40, 600)) > 0.5).astype(np.uint8)
    mask[:, 10:14] = 1
    assert regions.rle(mask, 0, 0, 40, 600)["counts"] == coco.encode(np.asfortranarray(mask))["counts"].decode()
    for empty in (np.zeros((3, 3)), np.ones((3, 3))):
        assert coco.decode(regions.rle(empty, 1, 2, 9, 9)).sum() == empty.sum()


def test_places():
    spots = {(30, 30): "top left", (31, 30): "top", (45, 45): "center", (61, 90): "bottom right", (5, 61): "bottom left"}
    assert {spot: regions.location(*spot, 90, 90) for spot in spots} == spots


# --- several witnesses ----------------------------------------------------------------------------------------------------
FUSED = Fusion(Weights(0.0, 1.0, 0.0, 0.0), Weights(0.0, 0.5, 0.0, 0.0, 1.0))


def witnessed(probability: float, expert: float | None, foreign: float, heat: tuple[slice, slice] = (slice(0), slice(0))) -> dict:
    given = inputs([logits()], probability, (120, 90))
    given["picture_evidence"] = np.array([[0.0, foreign]], np.float32)
    given["expert_map"] = np.zeros((120, 90), np.uint8)
    given["expert_map"][heat] = 250
    if expert is not None:
        given["experts"] = np.array([json.dumps([{"name": "few_shot", "score": expert}]).encode()], object)
    return given


def test_the_expert_is_heard_and_can_overrule():
    assert answered(witnessed(0.3, None, 0.0), FUSED)[0]["verdict"] == "normal"
    assert answered(witnessed(0.3, 0.9, 0.0), FUSED)[0]["verdict"] == "anomaly"
    assert answered(witnessed(0.9, 0.1, 0.0), FUSED)[0]["verdict"] == "normal"


def test_on_foreign_pictures_the_expert_decides_and_its_map_is_the_mask():
    said, found = answered(witnessed(0.01, 0.8, 3.0, (slice(90, 110), slice(70, 85))), FUSED)
    assert said["score"] == 0.8 and said["locations"] == ["bottom right"] and not found["MASK"][:80].any()
    assert answered(witnessed(0.99, 0.2, 3.0), FUSED)[0]["verdict"] == "normal"
    assert answered(witnessed(0.99, None, 3.0), FUSED)[0]["verdict"] == "anomaly"  # nobody else knows better than LISA


def test_a_witness_that_is_no_number_is_an_error():
    with pytest.raises(RequestError, match="INTERNAL: verdict"):
        answered(witnessed(0.9, None, np.nan), FUSED)
