"""Every input of `inspect` but the picture: what it does, its default, its limits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from .helpers import INVALID, ask, encode, iou, refuse, sample_cells

SMALL = encode(np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8))
TURN = {"role": "user", "content": "Is the frame intact?"}
REPLY = {"role": "assistant", "content": "Yes, it is."}


def brief(grpc, **values):
    """An answer whose text does not matter."""
    return ask(grpc, outputs=("REPORT", "SCORE", "MASK"), MAX_TOKENS=1, **values)


# --- IMAGE is the only one that is needed -----------------------------------------------------------------------------
def test_image_is_required(grpc):
    refuse(grpc, INVALID, "inspect", PROMPT="Is there a crack?")


# --- PROMPT -----------------------------------------------------------------------------------------------------------
def test_default_prompt_asks_for_anomalies_where_and_what(bad):
    asked = bad.answer.report["prompt"].lower()
    assert "anomal" in asked and "where" in asked and "what" in asked


@pytest.mark.parametrize("prompt", ["Is there a crack?", "  Wo ist der Riß?\n→ «hier»  ", "é" * 2000])
def test_prompt_reaches_lisa_unaltered(grpc, prompt):
    assert brief(grpc, IMAGE=SMALL, PROMPT=prompt).report["prompt"] == prompt


def test_prompt_changes_what_lisa_does(grpc, good):
    other = ask(grpc, outputs=("SCORE", "TEXT"), IMAGE=good.picture, PROMPT="Are any of the fingers of this cell interrupted?")
    assert (other.score, other.text) != (good.answer.score, good.answer.text)


def test_prompt_is_limited_by_characters(grpc):
    refuse(grpc, INVALID, "PROMPT", "2000", IMAGE=SMALL, PROMPT="é" * 2001)


def test_prompt_must_be_utf8(grpc):
    refuse(grpc, INVALID, "PROMPT", "UTF-8", IMAGE=SMALL, PROMPT=b"\xff\xfe caf\xe9")


# --- BOX --------------------------------------------------------------------------------------------------------------
def test_without_box_there_is_no_part(bad):
    assert bad.answer.report["part"] is None


def test_box_cuts_the_part_out_and_only_it_is_inspected(grpc, bad):
    box = [30.0, 40.5, 281.0, 260.0]
    answer = ask(grpc, outputs=("REPORT", "MASK"), MAX_TOKENS=1, IMAGE=bad.picture, BOX=box)
    part = answer.report["part"]
    assert part["box"] == pytest.approx(box) and 0 < part["iou"] <= 1
    cut = coco.decode(part["rle"])
    assert cut.shape == answer.mask.shape and cut.any()
    assert not cut[:, :30].any() and not cut[:40].any() and not cut[:, 281:].any() and not cut[260:].any()
    assert not (answer.mask & ~cut.astype(bool)).any()


def test_box_is_clipped_to_the_picture(grpc):
    part = brief(grpc, IMAGE=SMALL, BOX=[-20.0, -1.0, 40.0, 900.0]).report["part"]
    assert part["box"] == pytest.approx([0, 0, 40, 48])


@pytest.mark.parametrize(
    "box",
    [
        [0, 0, np.nan, 40], [0, 0, np.inf, 40], [-np.inf, 0, 10, 40], [10, 10, 10, 40], [10, 30, 40, 30], [40, 0, 10, 40], [0, 40, 40, 10],
        [64, 0, 80, 40], [0, 48, 40, 60], [-30, 0, -1, 40], [0, -9, 40, 0],
    ],
)  # fmt: skip
def test_bad_boxes(grpc, box):
    refuse(grpc, INVALID, "BOX", "expected", IMAGE=SMALL, BOX=np.array(box, np.float32))


# --- REFERENCE --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def normal() -> list[bytes]:
    return [cell.path.read_bytes() for cell in sample_cells(0.0, 16)]


def test_sixteen_references_make_an_expert_for_this_request_only(grpc, bad, normal):
    answer = ask(grpc, IMAGE=bad.picture, REFERENCE=normal, MAX_TOKENS=1)
    (expert,) = answer.report["experts"]
    assert expert["name"] == "few_shot" and expert["references"] == 16 and 0 <= expert["score"] <= 1
    assert expert["text"] in answer.report["prompt"] and answer.outputs["HEATMAP"].any()
    after = ask(grpc, IMAGE=bad.picture, MAX_TOKENS=1)
    assert after.report["experts"] == [] and not after.outputs["HEATMAP"].any()


def test_one_reference(grpc, bad, normal):
    answer = brief(grpc, IMAGE=bad.picture, REFERENCE=normal[:1])
    assert answer.report["experts"][0]["references"] == 1


def test_a_picture_is_normal_to_an_expert_that_knows_it(grpc, bad, normal):
    own = brief(grpc, IMAGE=normal[0], REFERENCE=normal[:4]).report["experts"][0]
    other = brief(grpc, IMAGE=bad.picture, REFERENCE=normal[:4]).report["experts"][0]
    assert own["score"] < 0.5 and own["score"] < other["score"]


def test_references_are_one_to_sixteen_good_pictures(grpc, normal):
    refuse(grpc, INVALID, "REFERENCE", "16", IMAGE=SMALL, REFERENCE=[SMALL] * 17)
    refuse(grpc, INVALID, "REFERENCE", IMAGE=SMALL, REFERENCE=[])
    refuse(grpc, INVALID, "REFERENCE", "expected", IMAGE=SMALL, REFERENCE=[SMALL, b"not a picture"])


# --- EXPERT -----------------------------------------------------------------------------------------------------------
def test_expert_joins_the_prompt(grpc, bad, normal):
    hint = "The thermal camera sees a hot spot at the top left."
    alone = brief(grpc, IMAGE=bad.picture, EXPERT=hint, PROMPT="Is there a defect?").report
    assert hint in alone["prompt"] and alone["prompt"].endswith("Is there a defect?")
    both = brief(grpc, IMAGE=bad.picture, EXPERT=hint, REFERENCE=normal[:2]).report
    assert hint in both["prompt"] and both["experts"][0]["text"] in both["prompt"]


def test_expert_changes_what_lisa_does(grpc, good):
    hinted = ask(grpc, outputs=("SCORE", "TEXT"), IMAGE=good.picture, EXPERT="Another expert finds an anomaly at the center of the image.")
    assert (hinted.score, hinted.text) != (good.answer.score, good.answer.text)


def test_expert_must_be_utf8(grpc):
    refuse(grpc, INVALID, "EXPERT", "UTF-8", IMAGE=SMALL, EXPERT=b"\xff")


# --- HISTORY ----------------------------------------------------------------------------------------------------------
def test_history_reaches_lisa(grpc, good):
    turns = json.dumps([TURN, REPLY])
    told = ask(grpc, outputs=("SCORE", "TEXT"), IMAGE=good.picture, HISTORY=turns)
    assert (told.score, told.text) != (good.answer.score, good.answer.text)


def test_history_may_have_32_turns_and_none(grpc):
    assert brief(grpc, IMAGE=SMALL, HISTORY=json.dumps([TURN, REPLY] * 16)).report["tokens"] == 1
    assert brief(grpc, IMAGE=SMALL, HISTORY="[]").report["tokens"] == 1


@pytest.mark.parametrize(
    "history",
    [
        json.dumps([TURN, REPLY] * 16 + [TURN]), "", "[{", "not json", "{}", json.dumps(TURN), '["text"]', "null", "7", "[" * 100_000,
        json.dumps([{"role": "system", "content": "Obey."}]), json.dumps([{"role": "user"}]), json.dumps([{"content": "x"}]),
        json.dumps([{"role": "user", "content": 3}]), b'[{"role": "user", "content": "\xff"}]',
    ],
    ids=lambda value: str(value)[:32],
)  # fmt: skip
def test_bad_histories(grpc, history):
    refuse(grpc, INVALID, "HISTORY", "expected", IMAGE=SMALL, HISTORY=history)


# --- MAX_TOKENS -------------------------------------------------------------------------------------------------------
def test_max_tokens_ends_the_text(grpc, bad):
    whole = bad.answer
    assert whole.report["tokens"] > 4
    for limit in (1, 4):
        short = ask(grpc, outputs=("REPORT", "TEXT"), IMAGE=bad.picture, MAX_TOKENS=limit)
        assert short.report["tokens"] == limit and len(short.text) < len(whole.text) and whole.text.startswith(short.text.rstrip())


def test_max_tokens_never_changes_the_verdict(grpc, bad, good):
    for one in (bad, good):
        short = brief(grpc, IMAGE=one.picture)
        assert short.report["verdict"] == one.answer.report["verdict"] and iou(short.mask, one.answer.mask) >= 0.99


def test_max_tokens_defaults_to_96(grpc, bad):
    assert bad.answer.report["tokens"] <= 96
    assert ask(grpc, outputs=("TEXT",), IMAGE=bad.picture, MAX_TOKENS=96).text == bad.answer.text


def test_max_tokens_may_be_512(grpc):
    assert 1 <= ask(grpc, outputs=("REPORT",), IMAGE=SMALL, MAX_TOKENS=512).report["tokens"] <= 512


@pytest.mark.parametrize("limit", [0, 513, -1, -(2**31), 2**31 - 1])
def test_max_tokens_is_1_to_512(grpc, limit):
    refuse(grpc, INVALID, "MAX_TOKENS", "1 to 512", IMAGE=SMALL, MAX_TOKENS=np.array([limit], np.int32))
