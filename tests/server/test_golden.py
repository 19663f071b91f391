"""Golden checkpoint A behind the real server: text and masks of the caller's question are the reference's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conformance.helpers import Answer, ask
from conformance.test_stream import check_order, stream
from sightline_ensemble.serve.running import running
from tritonclient.grpc import InferenceServerClient

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import golden_a  # noqa: E402


@pytest.fixture(scope="module")
def golden(golden_repository, tmp_path_factory) -> Iterator[str]:
    """Its gRPC address."""
    products = str(tmp_path_factory.mktemp("products"))
    with running("--repository", str(golden_repository), "--profile", "golden", "--products", products) as server:
        yield server.grpc


def asked(case: int) -> dict[str, object]:
    picture = golden_a.DATA / "images" / str(golden_a.of(case, "image"))
    most = int(golden_a.expected()["max_new_tokens"])
    return {"IMAGE": picture.read_bytes(), "PROMPT": str(golden_a.of(case, "question")), "MAX_TOKENS": most}


def check(case: int, answer: Answer) -> None:
    mask, report = answer.mask, answer.report
    expected = golden_a.mask(case).any(axis=0) if len(golden_a.mask(case)) else np.zeros(golden_a.of(case, "original_size"), bool)
    said = str(golden_a.of(case, "answer")).replace("</s>", "").replace("[SEG]", "")
    assert answer.text.split() == said.split() and report["prompt"] == str(golden_a.of(case, "question"))
    assert mask.shape == expected.shape and np.mean((mask > 0) != expected) <= 1e-4
    assert report["verdict"] == ("anomaly" if expected.any() else "normal") and report["profile"] == "golden"
    assert report["experts"] == [] and (report["score"] >= 0.5) == bool(expected.any())


@pytest.mark.parametrize("case", golden_a.CASES)
def test_inspect_answers_as_the_reference(golden, case):
    with InferenceServerClient(golden) as client:
        check(case, ask(client, **asked(case)))


@pytest.mark.parametrize("case", [1, 2])
def test_a_stream_ends_with_the_same(golden, case):
    """The mask of the first [SEG] comes first; the second [SEG] of case 2 adds its own."""
    (answers,) = stream(golden, asked(case))
    check_order(answers)
    check(case, answers[-1])
    assert len(answers) > 2 and answers[0].mask.any()
