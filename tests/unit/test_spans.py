"""Spans of a step's own calls: what they say, and that no inspection depends on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sightline_ensemble import spans
from sightline_ensemble.errors import invalid

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(spans, "_outbox", lambda: SimpleNamespace(put=told.append))
    return told


def request(context: str | None, parameters: str = "") -> SimpleNamespace:
    trace = SimpleNamespace(get_context=lambda: context)
    return SimpleNamespace(trace=lambda: trace, parameters=lambda: parameters, request_id=lambda: "part-7")


MADE, SENT = f'{{"traceparent": "{PARENT}"}}', f'{{"traceparent": "{PARENT.replace("b", "c")}", "seed": 7}}'


@pytest.mark.parametrize(
    "context, parameters, parent, overlooked",
    [
        (MADE, SENT, PARENT, ""),
        (None, SENT, PARENT.replace("b", "c"), PARENT.replace("b", "c")),
        (MADE.replace("-01", "-00"), "", "", ""),  # its caller does not sample it
        (None, '{"traceparent": 7}', "", ""),
        ('{"1234": "ACTIVITY"}', "", "", ""),
        (None, "", "", ""),
    ],
)
def test_parent(context: str | None, parameters: str, parent: str, overlooked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(spans.TRACES_VARIABLE, "http://localhost")
    given = request(context, parameters)
    assert (spans.parent_of(given), spans.overlooked(given)) == (parent, overlooked)
    monkeypatch.delenv(spans.TRACES_VARIABLE)
    assert (spans.parent_of(given), spans.overlooked(given)) == ("", "")


def test_what_triton_overlooked_is_made_up_from_the_clocks(sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(spans.TRACES_VARIABLE, "http://localhost")
    clocks = {name: np.array([[start, start + 5]]) for name, start in (("decode_clock", 100), ("cached_clock", 50), ("report_clock", 110))}
    spans.make_up(request(MADE, SENT), "inspect", clocks)
    assert sent == []
    spans.make_up(request(None, SENT), "inspect", clocks)
    assert [span["name"] for span in sent] == ["decode", "report", "inspect"]
    assert {span["parentSpanId"] for span in sent[:2]} == {sent[2]["spanId"]} and sent[2]["parentSpanId"] == "c" * 16


def test_a_call_and_the_steps_inside_of_it(sent: list[dict[str, Any]]) -> None:
    with spans.span("prepare", PARENT, "part-7") as made:
        now = time.monotonic_ns()
        assert made is not None
        made.inner({"ticket": np.zeros(2), "decode_clock": np.array([[now, now + 10**6]]), "cached_clock": np.array([[5, 6]])})
    inner, outer = sent
    assert (outer["name"], outer["traceId"], outer["parentSpanId"], outer["status"]) == ("prepare", "a" * 32, "b" * 16, {})
    assert (inner["name"], inner["traceId"], inner["parentSpanId"]) == ("decode", "a" * 32, outer["spanId"])
    assert int(inner["endTimeUnixNano"]) - int(inner["startTimeUnixNano"]) == 10**6
    assert abs(int(inner["startTimeUnixNano"]) - time.time_ns()) < 10**10
    assert {"key": "triton.request_id", "value": {"stringValue": "part-7"}} in outer["attributes"]


def test_a_failed_call_says_its_code_and_no_content(sent: list[dict[str, Any]]) -> None:
    for error in (invalid("PROMPT", "'secret'"), ValueError("secret")):
        with pytest.raises(type(error)), spans.span("lisa_engine", PARENT, ""):
            raise error
    assert [span["status"]["message"] for span in sent] == ["INVALID_ARGUMENT", "ValueError"] and "secret" not in str(sent)


def test_nothing_is_made_where_nobody_traces(sent: list[dict[str, Any]]) -> None:
    with spans.span("prepare", "", "part-7") as made:
        assert made is None
    assert sent == []


@pytest.fixture
def slow_collector() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            time.sleep(0.5)
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        server.shutdown()


def test_a_collector_that_is_slow_or_away_holds_nobody_up(slow_collector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (slow_collector, "http://127.0.0.1:9/v1/traces"):
        outbox = spans._Outbox(url)
        monkeypatch.setattr(spans, "_outbox", lambda outbox=outbox: outbox)
        begin = time.monotonic()
        for _ in range(2 * spans._KEPT):
            with spans.span("report", PARENT, ""):
                pass
        assert time.monotonic() - begin < 5 and outbox._waiting.qsize() <= spans._KEPT
