"""What the load tests count and compare, on outcomes made here."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sightline

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import comparison  # noqa: E402
import memory  # noqa: E402
import overload  # noqa: E402
import soak  # noqa: E402
from overload import Ended  # noqa: E402
from soak import Answer  # noqa: E402
from test_benchmarks import answer  # noqa: E402

MASK = np.zeros((20, 20), bool)
MASK[:10] = True


def other(pixels: int) -> np.ndarray:
    mask = MASK.copy()
    mask.reshape(-1)[:pixels] = False
    return mask


@pytest.mark.parametrize(
    ("found", "agrees"),
    [
        (Answer(("anomaly",), MASK), True),
        (Answer(("anomaly",), other(2)), True),
        (Answer(("anomaly",), other(3)), False),
        (Answer(("normal",), MASK), False),
        (Answer(("anomaly",)), False),
    ],
)
def test_an_answer_is_wrong_by_its_words_or_its_mask(found: Answer, agrees: bool) -> None:
    assert Answer(("anomaly",), MASK, "Yes").agrees(found) is agrees


def test_an_error_is_compared_by_its_line() -> None:
    def fail(client: object, picture: bytes) -> Answer:
        raise sightline.InvalidInput("IMAGE: not a picture" if picture else "timeout: passed", "INVALID_ARGUMENT")

    damaged, late = soak._with(fail, b"x", None), soak._with(fail, b"", None)
    assert damaged.words == ("InvalidInput", "IMAGE: not a picture") and late.words == ("InvalidInput", "")
    assert not damaged.agrees(late)


def test_memory_grows_by_so_much() -> None:
    warm = [(250 * n, 1000 + 50 * n) for n in range(1, 5)]
    assert soak.slope(warm + [(250 * n, 1300 + 0.5 * n) for n in range(5, 21)]) == pytest.approx(2.0)


def test_memory_has_a_column_for_each_process() -> None:
    rows = soak.memory_rows([(250, {"tritonserver": 80.0, "step lisa_0_0": 20.123}), (500, {"tritonserver": 90.0})])
    assert rows == [
        {"requests": 250, "resident_mb": 100.12, "step lisa_0_0": 20.12, "tritonserver": 80.0},
        {"requests": 500, "resident_mb": 90.0, "step lisa_0_0": 0.0, "tritonserver": 90.0},
    ]
    assert sum(memory.by_name(os.getpid()).values()) > 10


def test_every_sort_of_request_comes_by_its_share() -> None:
    sorts = {name: (share, [soak.Case(name, lambda client: Answer(()))]) for name, share in (("a", 0.7), ("b", 0.3))}
    counts = Counter(case.kind for case in soak.drawn(sorts, 1000))
    assert 650 < counts["a"] < 750 and counts.total() == 1000
    assert [case.kind for case in soak.drawn(sorts, 50)] == [case.kind for case in soak.drawn(sorts, 50)]


def test_the_sorts_add_up() -> None:
    assert sum(share for share, _ in soak.cases().values()) == pytest.approx(1)


def test_overload_counts_every_end() -> None:
    ended = (
        [Ended(n * 0.1, 2000.0, "answered") for n in range(100)] + [Ended(1.0, 10.0, "refused")] * 498 + [Ended(1.0, 90.0, "refused")] * 2
    )
    found = {measure.name: measure for measure in overload.measures([500.0] * 10, 1.0, [*ended, Ended(2.0, 1.0, "ServerFault")])}
    assert found["neither answered nor refused"].value == 1 and found["neither answered nor refused"].met == "no"
    assert found["refused within 50 ms"].value == pytest.approx(99.6) and found["refused, p99"].met == "yes"
    assert found["refused, largest"].value == 90
    bound = 3 * 500 + 1000 * 64 / (100 / 11.9)  # the last one is sent at 9.9 s and answered 2 s later
    assert found["p99 of the admitted / (3 x p99 alone + a full queue)"].value == pytest.approx(2000 / bound)


def test_a_few_slow_refusals_in_a_hundred_miss_the_bar() -> None:
    ended = [Ended(0.0, 10.0, "answered")] + [Ended(1.0, 10.0, "refused")] * 97 + [Ended(1.0, 90.0, "refused")] * 3
    found = {measure.name: measure.met for measure in overload.measures([500.0], 1.0, ended)}
    assert found["refused, p99"] == "no" and found["refused, p50"] == ""


def test_the_script_must_say_the_same() -> None:
    report = answer(True, "Yes, a crack at the top left.")
    script = {"verdict": "anomaly", "locations": ["top left"], "text": report.text, "MASK": report.mask.astype(np.uint8)}
    assert comparison.same(script, report)
    assert not comparison.same(script | {"MASK": np.zeros_like(script["MASK"])}, report)
    assert not comparison.same(script | {"text": "Yes."}, report)
