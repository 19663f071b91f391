"""The table of errors: what Triton checks itself, HTTP, a full queue, the request's timeout. (Values: the tests of each input.)"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from threading import Semaphore

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from tritonclient.utils import InferenceServerException

from .helpers import INVALID, NOT_FOUND, PATIENCE_S, UNAVAILABLE, Answer, arrays, ask, check_error, drawn, encode, inputs, iou, refuse

SMALL = encode(drawn(48, 64, (8, 8, 56, 40)))
BURST = 200


# --- dtypes and shapes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE", np.zeros((48, 64, 3), np.uint8)), ("PROMPT", np.zeros(1, np.int32)), ("BOX", np.array([0, 0, 9, 9], np.float64)),
        ("BOX", np.array([0, 0, 9, 9], np.int32)), ("PRODUCT", np.zeros(1, np.float32)), ("REFERENCE", np.zeros((1, 48), np.uint8)),
        ("EXPERT", np.zeros(1, np.uint8)), ("HISTORY", np.zeros(1, bool)), ("MAX_TOKENS", np.array([5], np.int64)),
        ("MAX_TOKENS", np.array([5.0], np.float32)),
    ],
)  # fmt: skip
def test_wrong_dtype(grpc, name, value):
    refuse(grpc, INVALID, name, **{"IMAGE": SMALL, name: value})


TEXT2 = np.array([b"a", b"b"], np.object_)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE", np.array([SMALL, SMALL], np.object_)), ("IMAGE", np.array([[SMALL]], np.object_)), ("IMAGE", np.array([], np.object_)),
        ("PROMPT", TEXT2), ("BOX", np.zeros(3, np.float32)), ("BOX", np.zeros((1, 4), np.float32)), ("BOX", np.zeros(5, np.float32)),
        ("PRODUCT", TEXT2), ("REFERENCE", np.array([[SMALL]], np.object_)), ("EXPERT", TEXT2), ("HISTORY", TEXT2),
        ("MAX_TOKENS", np.ones(2, np.int32)), ("MAX_TOKENS", np.ones((1, 1), np.int32)),
    ],
)  # fmt: skip
def test_wrong_shape(grpc, name, value):
    refuse(grpc, INVALID, name, **{"IMAGE": SMALL, name: value})


def test_unknown_inputs_outputs_and_models(grpc):
    refuse(grpc, INVALID, "QUESTION", IMAGE=SMALL, QUESTION="Is there a crack?")
    with pytest.raises(InferenceServerException) as caught:
        ask(grpc, outputs=("VERDICT",), IMAGE=SMALL)
    check_error(caught.value, INVALID, "VERDICT")
    refuse(grpc, NOT_FOUND, "inspekt", model="inspekt", IMAGE=SMALL)


def test_products_and_segment_check_theirs(grpc):
    refuse(grpc, INVALID, "ACTION", model="products", ACTION=np.zeros(1, np.int32))
    refuse(grpc, INVALID, "NAME", model="products", ACTION="describe", NAME=TEXT2)
    refuse(grpc, INVALID, "IMAGES", model="products", ACTION="enroll", NAME="x", IMAGES=np.zeros((1, 9), np.uint8))
    refuse(grpc, INVALID, "ACTION", model="products", NAME="x")
    refuse(grpc, INVALID, "BOX", model="segment", IMAGE=SMALL, BOX=np.zeros(2, np.float32))
    refuse(grpc, INVALID, "POINTS", model="segment", IMAGE=SMALL, POINTS=np.zeros(3, np.float32))


# --- HTTP -------------------------------------------------------------------------------------------------------------
def http_ask(http, model: str = "inspect", **values):
    return http.infer(model, inputs(values, tritonclient.http.InferInput))


def test_http_gives_the_same_answer(http, bad):
    result = http_ask(http, IMAGE=bad.picture)
    answer = Answer({name: result.as_numpy(name) for name in ("REPORT", "TEXT", "SCORE", "MASK", "HEATMAP")})
    assert answer.report["verdict"] == "anomaly" and answer.mask.shape == (300, 300) and iou(answer.mask, bad.answer.mask) >= 0.99
    assert answer.text == bad.answer.text and answer.score == pytest.approx(bad.answer.score, abs=0.02)


def test_http_segment_and_products(http):
    assert http_ask(http, "segment", IMAGE=SMALL, BOX=[5.0, 5.0, 60.0, 44.0]).as_numpy("MASK").shape == (48, 64)
    assert b"products" in http_ask(http, "products", ACTION="list").as_numpy("REPORT").item()


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("inspect", {"IMAGE": b"not a picture"}), ("inspect", {"IMAGE": SMALL, "PROMPT": "x" * 2001}),
        ("inspect", {"IMAGE": SMALL, "PRODUCT": "nobody-enrolled-this"}), ("inspect", {"IMAGE": SMALL, "BOX": np.zeros(3, np.float32)}),
        ("segment", {"IMAGE": SMALL, "BOX": [9.0, 9.0, 9.0, 9.0]}), ("products", {"ACTION": "rename"}),
    ],
    ids=["picture", "prompt", "product", "shape", "segment", "products"],
)  # fmt: skip
def test_http_says_400_and_the_same_line(grpc, http, model, values):
    """Triton 24.10 itself says 404 for NOT_FOUND; every other error of a request is 400."""
    with pytest.raises(InferenceServerException) as over_grpc:
        ask(grpc, model, **values)
    with pytest.raises(InferenceServerException) as over_http:
        http_ask(http, model, **values)
    check_error(over_http.value, "404" if over_grpc.value.status() == "StatusCode.NOT_FOUND" else "400")
    assert over_http.value.message() == over_grpc.value.message()


# --- timeout ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("timeout", [1e-6, 0.02])
def test_a_passed_timeout_is_unavailable_at_once(grpc, bad, timeout):
    start = time.monotonic()
    with pytest.raises(InferenceServerException) as caught:
        ask(grpc, timeout=timeout, IMAGE=bad.picture)
    check_error(caught.value, UNAVAILABLE, "timeout")
    assert time.monotonic() - start < 2


def test_the_language_model_stops_at_its_next_token(grpc, bad):
    alone = min(ask(grpc, IMAGE=bad.picture).seconds for _ in range(2))
    start = time.monotonic()
    with pytest.raises(InferenceServerException) as caught:
        ask(grpc, timeout=0.7 * alone, IMAGE=bad.picture)
    check_error(caught.value, UNAVAILABLE, "timeout")
    assert time.monotonic() - start < 0.95 * alone + 0.1


def test_a_timeout_that_does_not_pass_changes_nothing(grpc, bad):
    answer = ask(grpc, timeout=60, IMAGE=bad.picture)
    assert answer.text == bad.answer.text and iou(answer.mask, bad.answer.mask) >= 0.99


# --- queue ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outcome:
    """What came of one request of a burst, and when."""

    outputs: dict[str, np.ndarray] | None
    error: InferenceServerException | None
    seconds: float


def burst(url: str, count: int, **values) -> list[Outcome]:
    """`count` requests at once, each with a timeout of 4 s, so that those admitted do not keep the suite waiting."""
    found: list[Outcome] = []
    done, request = Semaphore(0), inputs(values)

    def take(start: float, result, error) -> None:
        found.append(Outcome(None if error else arrays(result), error, time.monotonic() - start))
        done.release()

    with triton.InferenceServerClient(url) as client:
        for _ in range(count):
            start = time.monotonic()
            client.async_infer(
                "inspect", request, callback=lambda result, error, start=start: take(start, result, error), timeout=4_000_000
            )
        for _ in range(count):
            assert done.acquire(timeout=PATIENCE_S), "a request of the burst was never answered"
    return found


@pytest.mark.alone
def test_a_full_queue_refuses_within_50_ms_and_before_any_work(server, grpc, bad):
    """Twice: a refusal that leaked its place would leave none for the second burst, nor for the request after it."""
    medians = []
    for _ in range(2):
        found = burst(server.grpc, BURST, IMAGE=SMALL, MAX_TOKENS=1)
        full = [one for one in found if one.error and "queue" in one.error.message()]
        late = [one for one in found if one.error and "timeout" in one.error.message()]
        answered = [one for one in found if one.outputs]
        assert len(full) + len(late) + len(answered) == BURST and full and answered
        for one in full:
            check_error(one.error, UNAVAILABLE, "queue")
        for one in late:
            check_error(one.error, UNAVAILABLE)
        times = sorted(one.seconds for one in full)
        medians.append(statistics.median(times))
        for one in answered:
            assert Answer(one.outputs).report["size"] == [48, 64]
    # The better of two: clients and server share the machine's cores, and somebody else may be using them.
    assert min(medians) < 0.05, f"half of the refusals took longer than {min(medians):.3f} s"
    after = ask(grpc, IMAGE=bad.picture)
    assert after.report["verdict"] == "anomaly" and iou(after.mask, bad.answer.mask) >= 0.99
