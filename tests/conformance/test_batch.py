"""The same request gives the same answer, whatever runs beside it; and a bad one beside it changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tritonclient.utils import InferenceServerException

from .helpers import INVALID, NOT_FOUND, ask, check_error, drawn, encode, iou


def check_same(one, answer) -> None:
    alone = one.answer
    assert answer.report["verdict"] == alone.report["verdict"] and answer.report["locations"] == alone.report["locations"]
    assert iou(answer.mask, alone.mask) >= 0.99 and answer.score == pytest.approx(alone.score, abs=0.02)


def test_again_alone(grpc, bad):
    again = ask(grpc, IMAGE=bad.picture)
    check_same(bad, again)
    assert again.text == bad.answer.text


def test_eight_at_a_time(grpc, seen):
    """Two rounds of all cells, in different order, beside requests with other inputs."""
    others = [
        {"PROMPT": "Is there a crack?", "MAX_TOKENS": 3},
        {"BOX": [20.0, 20.0, 280.0, 280.0], "MAX_TOKENS": 9},
        {"REFERENCE": [seen[-1].picture]},
    ]
    with ThreadPoolExecutor(8) as pool:
        for order in (seen, seen[::-1]):
            wanted = [pool.submit(ask, grpc, IMAGE=one.picture) for one in order]
            beside = [pool.submit(ask, grpc, IMAGE=order[0].picture, **values) for values in others]
            for one, answer in zip(order, wanted, strict=True):
                check_same(one, answer.result())
            for answer in beside:
                answer.result()


def test_bad_requests_change_nobody_elses_answer(grpc, seen):
    bad_ones = [
        (INVALID, "IMAGE", {"IMAGE": b"not a picture"}),
        (INVALID, "IMAGE", {"IMAGE": b""}),
        (INVALID, "BOX", {"BOX": [5.0, 5.0, 5.0, 5.0]}),
        (INVALID, "HISTORY", {"HISTORY": "{}"}),
        (INVALID, "PROMPT", {"PROMPT": "x" * 2001}),
        (INVALID, "REFERENCE", {"REFERENCE": [seen[0].picture, seen[1].picture[:5000]]}),
        (INVALID, "MAX_TOKENS", {"MAX_TOKENS": 0}),
        (NOT_FOUND, "PRODUCT", {"PRODUCT": "nobody-enrolled-this"}),
    ]
    with ThreadPoolExecutor(16) as pool:
        right, wrong = [], []
        for one, (_, _, values) in zip(seen, bad_ones, strict=True):  # interleaved: they share batches
            right.append(pool.submit(ask, grpc, IMAGE=one.picture))
            wrong.append(pool.submit(ask, grpc, **{"IMAGE": one.picture, **values}))
        for (status, name, _), answer in zip(bad_ones, wrong, strict=True):
            error = answer.exception()
            assert isinstance(error, InferenceServerException), f"a bad {name} was answered"
            check_error(error, status, name)
        for one, answer in zip(seen, right, strict=True):
            check_same(one, answer.result())


def test_every_request_of_a_crowd_gets_its_own_answer(grpc):
    """Sizes and prompts tell the answers apart: none is anybody else's."""

    def one(index: int):
        height, width = 40 + 7 * index, 90 - 5 * index
        answer = ask(
            grpc, outputs=("REPORT", "MASK"), IMAGE=encode(drawn(height, width, (5, 5, 30, 30))), PROMPT=f"Question {index}?", MAX_TOKENS=2
        )
        return index, answer, [height, width]

    with ThreadPoolExecutor(12) as pool:
        for index, answer, size in pool.map(one, range(12)):
            assert answer.report["size"] == size == list(answer.mask.shape) and answer.report["prompt"] == f"Question {index}?"
