"""`inspect_stream`: the mask first, then the text; order, pieces, end, errors, cancelling."""

from __future__ import annotations

import time
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from tritonclient.utils import InferenceServerException

from .helpers import INVALID, NOT_FOUND, OUTPUTS, PATIENCE_S, UNAVAILABLE, Answer, arrays, ask, check_error, inputs, iou
from .test_outputs import check_report

ASK_STATUS = {"triton_grpc_error": "true"}  # the error's status too; 24.10 may not survive how it ends the stream, so it is asked once


def stream(url: str, *requests: dict[str, Any], timeout: float | None = None, headers: Any = None) -> list[list[Answer]]:
    """The responses of each request, all sent at once over one stream; InferenceServerException where one fails."""
    heard: SimpleQueue[tuple[Any, InferenceServerException | None]] = SimpleQueue()
    found: list[list[Answer]] = [[] for _ in requests]
    with triton.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: heard.put((result, error)), stream_timeout=PATIENCE_S, headers=headers)
        start, limit = time.monotonic(), None if timeout is None else int(timeout * 1e6)
        for index, values in enumerate(requests):
            client.async_stream_infer(
                "inspect_stream", inputs(values), request_id=str(index), enable_empty_final_response=True, timeout=limit
            )
        while not all(answers and answers[-1].final for answers in found):
            result, error = heard.get(timeout=PATIENCE_S)
            if error is not None:
                raise error
            message = result.get_response()
            final = message.parameters["triton_final_response"].bool_param
            found[int(message.id)].append(Answer(arrays(result), time.monotonic() - start, final))
    return found


def check_order(answers: list[Answer]) -> None:
    first, *pieces, last = answers
    assert {"REPORT", "MASK", "TEXT"} <= set(first.outputs) and set(last.outputs) == set(OUTPUTS) and last.final
    for piece in pieces:
        assert set(piece.outputs) == {"TEXT"} and not piece.final
    assert not first.final
    assert "".join(one.text for one in answers[:-1]) == last.text
    assert first.report["verdict"] == last.report["verdict"] and not (first.mask & (1 - last.mask)).any()
    assert first.report["text"] == first.text
    check_report(last)


@pytest.fixture(scope="module")
def streamed(server, bad) -> list[Answer]:
    return stream(server.grpc, {"IMAGE": bad.picture})[0]


def test_an_anomaly_shows_its_mask_before_its_text(streamed):
    check_order(streamed)
    first, *pieces, last = streamed
    assert first.mask.any() and len(pieces) >= 3 and len(first.text) < len(last.text)
    assert first.seconds < last.seconds and last.report["time_to_mask_ms"] < last.report["timings_ms"]["total"]


def test_the_first_response_is_a_report(streamed):
    first = streamed[0]
    assert first.report["schema"] == "sightline/1" and first.report["verdict"] == "anomaly" and first.report["defects"]
    assert first.report["size"] == list(first.mask.shape) and first.mask.dtype == np.uint8


def test_a_normal_picture_has_its_verdict_and_text_at_the_end(server, good):
    (answers,) = stream(server.grpc, {"IMAGE": good.picture})
    check_order(answers)
    assert answers[0].report["verdict"] == "normal" and not answers[0].mask.any()


def test_a_stream_says_what_the_unary_call_says(streamed, bad):
    last = streamed[-1]
    assert last.report["verdict"] == bad.answer.report["verdict"] and iou(last.mask, bad.answer.mask) >= 0.99
    assert last.text == bad.answer.text and last.report["prompt"] == bad.answer.report["prompt"]
    assert np.array_equal(last.outputs["HEATMAP"], bad.answer.outputs["HEATMAP"])


def test_all_inputs(server, bad, good):
    request = {
        "IMAGE": bad.picture, "PROMPT": "Is there a crack?", "BOX": [5.0, 5.0, 295.0, 295.0], "REFERENCE": [good.picture],
        "EXPERT": "Look closely.", "HISTORY": '[{"role": "user", "content": "Hello."}]', "MAX_TOKENS": 12,
    }  # fmt: skip
    (answers,) = stream(server.grpc, request)
    check_order(answers)
    report = answers[-1].report
    assert report["part"]["box"] == pytest.approx(request["BOX"]) and report["experts"][0]["references"] == 1
    assert report["tokens"] <= 12 and "Look closely." in report["prompt"] and report["prompt"].endswith("Is there a crack?")


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_order_holds_however_short_the_text(server, bad, good, limit):
    for answers in stream(server.grpc, *({"IMAGE": one.picture, "MAX_TOKENS": limit} for one in (bad, good))):
        check_order(answers)


def test_requests_of_one_stream_run_beside_each_other(server, seen):
    """Each in its own order, each with the answer it has alone."""
    found = stream(server.grpc, *({"IMAGE": one.picture} for one in seen))
    for one, answers in zip(seen, found, strict=True):
        check_order(answers)
        assert answers[-1].report["verdict"] == one.answer.report["verdict"] and iou(answers[-1].mask, one.answer.mask) >= 0.99
    spans = [(answers[0].seconds, answers[-1].seconds) for answers in found]
    assert any(a[0] < b[0] < a[1] for a in spans for b in spans), "no text was on its way while another request's mask was sent"


def test_unary_calls_are_refused(grpc, http, bad):
    with pytest.raises(InferenceServerException) as caught:
        ask(grpc, "inspect_stream", IMAGE=bad.picture)
    assert "decoupled" in caught.value.message() and caught.value.status() == "StatusCode.UNIMPLEMENTED"
    with pytest.raises(InferenceServerException, match="decoupled"):
        http.infer("inspect_stream", inputs({"IMAGE": bad.picture}, tritonclient.http.InferInput))


@pytest.mark.parametrize(
    ("status", "words", "values"),
    [
        (INVALID, ("IMAGE", "expected"), {"IMAGE": b"not a picture"}),
        (INVALID, ("PROMPT", "2000"), {"PROMPT": "x" * 2001}),
        (INVALID, ("BOX", "expected"), {"BOX": [9.0, 9.0, 9.0, 9.0]}),
        (INVALID, ("HISTORY", "expected"), {"HISTORY": "{}"}),
        (INVALID, ("MAX_TOKENS", "1 to 512"), {"MAX_TOKENS": 513}),
        (INVALID, ("REFERENCE", "16"), {"REFERENCE": []}),
        (NOT_FOUND, ("PRODUCT",), {"PRODUCT": "nobody-enrolled-this"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_have_their_status(server, bad, status, words, values):
    with pytest.raises(InferenceServerException) as caught:
        stream(server.grpc, {"IMAGE": bad.picture, **values})
    check_error(caught.value, status, *words)


def test_a_status_is_there_where_it_is_asked_for(server):
    with pytest.raises(InferenceServerException) as caught:
        stream(server.grpc, {"IMAGE": b"not a picture"}, headers=ASK_STATUS)
    assert check_error(caught.value, INVALID, "IMAGE") and caught.value.status() == f"StatusCode.{INVALID}"


def test_a_wrong_shape_is_refused(server, bad):
    """By Triton itself, before the model: 24.10 gives such an error of a stream no status, only its line."""
    with pytest.raises(InferenceServerException) as caught:
        stream(server.grpc, {"IMAGE": bad.picture, "BOX": np.zeros(3, np.float32)})
    assert "BOX" in caught.value.message() and "[4]" in caught.value.message()


def test_timeout(server, bad):
    start = time.monotonic()
    with pytest.raises(InferenceServerException) as caught:
        stream(server.grpc, {"IMAGE": bad.picture}, timeout=0.05)
    check_error(caught.value, UNAVAILABLE, "timeout")
    assert time.monotonic() - start < 5


def leave(client: triton.InferenceServerClient, names: Iterable[str]) -> None:
    """Ends streams of these ids by requests of their own, as contract and client do."""
    for name in names:
        client.async_stream_infer("inspect_stream", inputs({"IMAGE": b""}), parameters={"cancel": name})


def test_streams_that_are_left_stop_and_give_back_their_places(server, grpc, bad):
    """Left alone, 32 streams would keep the server busy for most of a minute; three rounds of them exceed its queue."""
    ask(grpc, IMAGE=bad.picture, MAX_TOKENS=1)
    start, names = time.monotonic(), [f"{run}-{index}" for run in range(3) for index in range(32)]
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: None)
        for index, name in enumerate(names, 1):
            client.async_stream_infer("inspect_stream", inputs({"IMAGE": bad.picture, "MAX_TOKENS": 512}), request_id=name)
            if not index % 32:
                time.sleep(0.3)
                leave(client, names[index - 32 : index])
    after = None
    while after is None:  # who is in the middle of a step gives its place back after it
        try:
            after = ask(grpc, IMAGE=bad.picture)
        except InferenceServerException as error:
            assert "queue full" in str(error) and time.monotonic() - start < 15
            time.sleep(0.2)
    assert after.report["verdict"] == "anomaly" and iou(after.mask, bad.answer.mask) >= 0.99
    assert time.monotonic() - start < 15


def test_a_stream_that_its_client_cancels_harms_nobody(server, bad):
    """gRPC's own way; tritonserver 24.10 does not survive it often (docs/deployment.md), so it is done once."""
    heard: SimpleQueue[tuple[Any, InferenceServerException | None]] = SimpleQueue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: heard.put((result, error)))
        client.async_stream_infer("inspect_stream", inputs({"IMAGE": bad.picture, "MAX_TOKENS": 512}), request_id="gone")
        assert heard.get(timeout=PATIENCE_S)[1] is None
        client.stop_stream(cancel_requests=True)
    check_order(stream(server.grpc, {"IMAGE": bad.picture})[0])


def test_a_stream_is_left_by_a_request(server, bad):
    """The parameter `cancel` ends the stream of that id alone; the asking stream ends without a word."""
    heard: SimpleQueue[tuple[Any, InferenceServerException | None]] = SimpleQueue()
    picture = inputs({"IMAGE": bad.picture, "MAX_TOKENS": 512})
    with triton.InferenceServerClient(server.grpc) as left, triton.InferenceServerClient(server.grpc) as other:
        left.start_stream(lambda result, error: heard.put((result, error)), stream_timeout=PATIENCE_S)
        left.async_stream_infer("inspect_stream", picture, request_id="leaving")
        _, error = heard.get(timeout=PATIENCE_S)
        assert error is None
        ended: SimpleQueue[tuple[Any, InferenceServerException | None]] = SimpleQueue()
        other.start_stream(lambda result, error: ended.put((result, error)), stream_timeout=PATIENCE_S)
        asked = inputs({"IMAGE": b""})
        for name in ("nobody", "leaving"):
            other.async_stream_infer("inspect_stream", asked, parameters={"cancel": name}, enable_empty_final_response=True)
            result, wrong = ended.get(timeout=PATIENCE_S)
            assert wrong is None and result.get_response().parameters["triton_final_response"].bool_param and not arrays(result)
        begin, error = time.monotonic(), None
        while error is None:
            _, error = heard.get(timeout=PATIENCE_S)
        assert "CANCELLED" in str(error) and time.monotonic() - begin < 5
    check_order(stream(server.grpc, {"IMAGE": bad.picture})[0])
