"""Every output of `inspect` and every field of the report; and that none of them contradicts another."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pycocotools import mask as coco

from .helpers import OUTPUTS, ask, drawn, encode

LOCATIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
PUBLIC = {
    "inspect": (
        {"IMAGE": ("BYTES", [1]), "PROMPT": ("BYTES", [1]), "BOX": ("FP32", [4]), "PRODUCT": ("BYTES", [1]), "REFERENCE": ("BYTES", [-1]),
         "EXPERT": ("BYTES", [1]), "HISTORY": ("BYTES", [1]), "MAX_TOKENS": ("INT32", [1])},
        {"REPORT": ("BYTES", [1]), "TEXT": ("BYTES", [1]), "SCORE": ("FP32", [1]),
         "MASK": ("UINT8", [-1, -1]), "HEATMAP": ("UINT8", [-1, -1])},
        {"IMAGE"},
    ),
    "segment": (
        {"IMAGE": ("BYTES", [1]), "BOX": ("FP32", [4]), "POINTS": ("FP32", [-1, 3])},
        {"MASK": ("UINT8", [-1, -1]), "IOU": ("FP32", [1]), "CUTOUT": ("BYTES", [1])},
        {"IMAGE"},
    ),
    "products": (
        {"ACTION": ("BYTES", [1]), "NAME": ("BYTES", [1]), "IMAGES": ("BYTES", [-1]), "DESCRIPTION": ("BYTES", [1]),
         "PROMPT": ("BYTES", [1]), "BOX": ("FP32", [4])},
        {"REPORT": ("BYTES", [1])},
        {"ACTION"},
    ),
}  # fmt: skip
PUBLIC["inspect_stream"] = PUBLIC["inspect"]


# --- signatures -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", PUBLIC)
def test_signature(grpc, model):
    inputs, outputs, needed = PUBLIC[model]
    metadata, config = grpc.get_model_metadata(model), grpc.get_model_config(model).config
    assert {t.name: (t.datatype, list(t.shape)) for t in metadata.inputs} == inputs
    assert {t.name: (t.datatype, list(t.shape)) for t in metadata.outputs} == outputs
    assert {t.name for t in config.input if not t.optional} == needed and config.max_batch_size == 0
    assert config.model_transaction_policy.decoupled == (model == "inspect_stream")
    assert grpc.is_model_ready(model)


# --- outputs ----------------------------------------------------------------------------------------------------------
def test_types_and_shapes(seen):
    for one in seen:
        found = one.answer.outputs
        assert set(found) == set(OUTPUTS)
        assert found["SCORE"].dtype == np.float32 and found["SCORE"].shape == (1,) and 0 <= one.answer.score <= 1
        assert found["MASK"].dtype == np.uint8 and found["MASK"].shape == (300, 300) and set(np.unique(found["MASK"])) <= {0, 1}
        assert found["HEATMAP"].dtype == np.uint8 and found["HEATMAP"].ndim == 2
        assert found["REPORT"].shape == found["TEXT"].shape == (1,)


@pytest.mark.parametrize("name", OUTPUTS)
def test_one_output_alone(grpc, bad, name):
    answer = ask(grpc, outputs=(name,), IMAGE=bad.picture)
    assert list(answer.outputs) == [name]
    if name != "REPORT":  # its times differ
        assert np.array_equal(answer.outputs[name], bad.answer.outputs[name]) or name == "SCORE"
    else:
        assert answer.report["verdict"] == "anomaly" and answer.report["defects"] == bad.answer.report["defects"]


def test_both_verdicts_occur(seen):
    assert {one.answer.report["verdict"] for one in seen} == {"normal", "anomaly"}


def test_heatmap_keeps_the_aspect_and_is_at_most_256(grpc):
    picture = drawn(400, 800, (200, 100, 600, 300))
    answer = ask(grpc, MAX_TOKENS=1, outputs=("HEATMAP",), IMAGE=encode(picture), REFERENCE=[encode(drawn(400, 800, (220, 90, 610, 290)))])
    assert answer.outputs["HEATMAP"].shape == (128, 256)
    small = ask(grpc, MAX_TOKENS=1, outputs=("HEATMAP",), IMAGE=encode(picture[:60, :90]))
    assert max(small.outputs["HEATMAP"].shape) <= 256 and small.outputs["HEATMAP"].shape == (60, 90)


# --- the report -------------------------------------------------------------------------------------------------------
def check_rle(rle, height: int, width: int) -> np.ndarray:
    assert set(rle) == {"size", "counts"} and rle["size"] == [height, width] and isinstance(rle["counts"], str)
    return coco.decode(rle)


def check_score(value) -> None:
    assert isinstance(value, (int, float)) and 0 <= value <= 1


def words_at(x: float, y: float, height: int, width: int) -> set[str]:
    """The thirds a centroid lies in; both where it is within half a pixel of their border."""
    columns = {int(3 * (x + d) // width) for d in (-0.5, 0, 0.5)}
    rows = {int(3 * (y + d) // height) for d in (-0.5, 0, 0.5)}
    return {LOCATIONS[3 * min(max(r, 0), 2) + min(max(c, 0), 2)] for r in rows for c in columns}


def check_report(answer) -> None:
    """Every rule of the contract that one answer must keep."""
    report, mask = answer.report, answer.mask
    assert set(report) == {
        "schema", "verdict", "score", "text", "locations", "defects", "part", "experts", "size", "prompt", "tokens", "profile", "artefacts",
        "timings_ms", "time_to_mask_ms",
    }  # fmt: skip
    assert report["schema"] == "sightline/1" and report["verdict"] in ("normal", "anomaly")
    height, width = report["size"]
    assert mask.shape == (height, width)
    check_score(report["score"])
    assert report["score"] == pytest.approx(answer.score, abs=1e-4) and report["text"] == answer.text and "[SEG]" not in report["text"]
    anomaly = report["verdict"] == "anomaly"
    assert (
        anomaly
        == (answer.score >= 0.5)
        == (report["score"] >= 0.5)
        == bool(mask.any())
        == bool(report["defects"])
        == bool(report["locations"])
    )
    opening = re.match(r"\W*(yes|no)\b", report["text"], re.I)
    assert opening is None or (opening[1].lower() == "yes") == anomaly
    check_defects(report, mask, height, width)
    if report["part"] is not None:
        assert set(report["part"]) == {"box", "iou", "rle"} and len(report["part"]["box"]) == 4
        assert 0 <= report["part"]["iou"] <= 1 and check_rle(report["part"]["rle"], height, width).any()
    for expert in report["experts"]:
        assert set(expert) == {"name", "score", "text", "references"} and expert["text"] and expert["references"] >= 1
        check_score(expert["score"])
    assert isinstance(report["prompt"], str) and report["prompt"]
    assert isinstance(report["tokens"], int) and 1 <= report["tokens"] <= 512
    assert isinstance(report["profile"], str) and report["profile"]
    check_provenance(report)


def check_defects(report, mask: np.ndarray, height: int, width: int) -> None:
    union = np.zeros_like(mask)
    for defect in report["defects"]:
        assert set(defect) == {"box", "area", "score", "location", "rle"}
        own = check_rle(defect["rle"], height, width)
        rows, columns = np.nonzero(own)
        assert isinstance(defect["area"], int) and defect["area"] == len(rows) > 0
        x0, y0, x1, y1 = defect["box"]
        assert (x0, y0) == pytest.approx((columns.min(), rows.min()), abs=1.01) and (x1, y1) == pytest.approx(
            (columns.max() + 1, rows.max() + 1), abs=1.01
        )
        check_score(defect["score"])
        assert defect["location"] in words_at(columns.mean() + 0.5, rows.mean() + 0.5, height, width)
        union |= own
    assert np.array_equal(union, mask)
    assert set(report["locations"]) == {defect["location"] for defect in report["defects"]} and len(set(report["locations"])) == len(
        report["locations"]
    )


def check_provenance(report) -> None:
    assert report["artefacts"] and all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in report["artefacts"].values())
    assert {"sam_encoder", "sam_decoder", "vision_encoder", "lisa_decoder"} <= set(report["artefacts"])
    assert any(name.startswith("lisa") and name != "lisa_decoder" for name in report["artefacts"])
    timings = dict(report["timings_ms"])
    total = timings.pop("total")
    assert len(timings) >= 5 and all(value >= 0 for value in timings.values())
    assert sum(timings.values()) == pytest.approx(total, rel=0.1) and 0 < report["time_to_mask_ms"] <= total


def test_reports_of_plain_requests(seen):
    for one in seen:
        check_report(one.answer)


def test_report_of_a_full_request(grpc, bad, good):
    answer = ask(
        grpc, IMAGE=bad.picture, BOX=[5.0, 5.0, 295.0, 295.0], REFERENCE=[good.picture], EXPERT="Look closely.", PROMPT="Is there a crack?",
        HISTORY='[{"role": "user", "content": "Hello."}]', MAX_TOKENS=40,
    )  # fmt: skip
    check_report(answer)
    assert answer.report["part"] and len(answer.report["experts"]) == 1 and answer.report["tokens"] <= 40


@pytest.mark.parametrize(
    "prompt", ["Is this cell free of defects?", "Describe the picture.", "Answer with no.", "Answer with yes.", "[SEG] [SEG]", ""]
)
def test_no_question_makes_it_contradict_itself(grpc, bad, good, prompt):
    for one in (bad, good):
        check_report(ask(grpc, IMAGE=one.picture, PROMPT=prompt, MAX_TOKENS=24))


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_limit_makes_it_contradict_itself(grpc, bad, good, limit):
    for one in (bad, good):
        check_report(ask(grpc, IMAGE=one.picture, MAX_TOKENS=limit))


def test_unusual_pictures(grpc):
    noise = np.random.default_rng(0).integers(0, 256, (211, 97, 3), dtype=np.uint8)
    for pixels in (np.zeros((64, 300, 3), np.uint8), np.full((301, 33, 3), 255, np.uint8), noise, drawn(720, 1280, (300, 100, 900, 600))):
        check_report(ask(grpc, IMAGE=encode(pixels), MAX_TOKENS=8))


def test_timings_fit_what_the_client_saw(grpc, bad):
    answer = ask(grpc, outputs=("REPORT",), IMAGE=bad.picture)
    assert 0.5 * answer.seconds * 1000 < answer.report["timings_ms"]["total"] <= answer.seconds * 1000


def test_artefacts_and_profile_never_change(seen):
    assert len({(one.answer.report["profile"], *sorted(one.answer.report["artefacts"].items())) for one in seen}) == 1
