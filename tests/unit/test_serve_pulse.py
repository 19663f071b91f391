"""When the canary flies and what it means; the health port; the request it sends."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice

import pytest
from PIL import Image
from sightline_ensemble.serve import canary
from sightline_ensemble.serve.canary import Counts, Outcome, Probe
from sightline_ensemble.serve.health import Health, Status
from sightline_ensemble.serve.launcher import Ports, ServeError
from sightline_ensemble.serve.supervisor import BUSY_LIMIT_SECONDS, LONGEST_PAUSE, Pulse, pauses

GOOD, BAD, BUSY = Probe(Outcome.GOOD), Probe(Outcome.BAD, "no answer"), Probe(Outcome.BUSY, "queue full")


def test_a_good_canary_is_repeated_after_the_period() -> None:
    pulse = Pulse(period=30, good_at=0)
    assert pulse.outcome(5, GOOD) == "" and pulse.next_at == 35


def test_clients_own_answers_postpone_the_canary() -> None:
    pulse = Pulse(period=30, good_at=0, next_at=10)
    pulse.count(8, Counts(good=1, failed=3))
    assert pulse.next_at == 38 and pulse.good_at == 8


def test_failures_without_a_success_call_for_a_canary_at_once() -> None:
    pulse = Pulse(period=30, good_at=0, next_at=30, seen=Counts(4, 0))
    pulse.count(8, Counts(4, 1))
    assert pulse.next_at == 8


def test_two_bad_canaries_in_a_row_mean_a_restart() -> None:
    pulse = Pulse(period=30, good_at=0)
    assert pulse.outcome(1, BAD) == ""
    assert pulse.outcome(3, BAD) == "no answer"


def test_an_answer_between_two_bad_canaries_saves_the_server() -> None:
    pulse = Pulse(period=30, good_at=0)
    pulse.outcome(1, BAD)
    pulse.count(1.5, Counts(1, 0))
    assert pulse.next_at == 2  # and the canary that makes it ready again is not put off
    assert pulse.outcome(3, BAD) == ""


def test_busy_is_not_bad_until_nobody_is_answered_for_long() -> None:
    pulse = Pulse(period=30, good_at=0)
    assert pulse.outcome(BUSY_LIMIT_SECONDS - 1, BUSY) == ""
    assert "none is answered" in pulse.outcome(BUSY_LIMIT_SECONDS + 1, BUSY)


def test_a_late_canary_is_a_crowd_where_others_end_and_a_hang_where_none_does() -> None:
    late = Probe(Outcome.LATE, "no answer in time")
    pulse = Pulse(period=30, good_at=0)
    for now in (10, 20):
        pulse.begin()
        pulse.count(now - 1, Counts(0, now))
        assert pulse.outcome(now, late) == "" and not pulse.misses
    pulse.begin()
    assert pulse.outcome(30, late) == "" and pulse.misses
    pulse.begin()
    pulse.count(39, Counts(0, 21))  # its own
    assert pulse.outcome(40, late) == "no answer in time"


def test_what_clients_were_answered_is_what_has_a_report() -> None:
    """A stream that was taken in and never answered proves nothing, one with a report is as good as a plain request."""
    booked = {"inspect": (0, 3), "inspect_stream": (40, 0), "report": (5, 1)}

    class Stats(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good, failed = booked[self.path.split("/")[3]]
            self.send_response(200)
            self.end_headers()
            entry = {"inference_stats": {"success": {"count": good}, "fail": {"count": failed}}}
            self.wfile.write(json.dumps({"model_stats": [entry]}).encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Stats)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        assert canary.counts(f"http://127.0.0.1:{server.server_port}") == Counts(good=5, failed=3)
    finally:
        server.shutdown()
        server.server_close()


def test_pauses_grow_to_a_limit() -> None:
    first = list(islice(pauses(), 6))
    assert first == [0.0, 1.0, 2.0, 4.0, 8.0, 8.0] and max(first) == LONGEST_PAUSE


def test_the_canary_is_a_picture() -> None:
    picture = Image.open(io.BytesIO(canary.picture()))
    picture.load()
    low, high = picture.getextrema()
    assert picture.size == (64, 64) and low <= 1 and high >= 252
    assert len({canary.picture() for _ in range(8)}) > 4, "a cache would answer"


@pytest.mark.parametrize("path", ["ready", "live"])
def test_health_port_tells_status_and_reason(path: str) -> None:
    status = Status(ready=True, live=True, reason="")
    health = Health("127.0.0.1", 0, lambda: status)
    url = f"http://127.0.0.1:{health.port}/{path}"
    try:
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200 and json.load(answer)["ready"] is True
        status = replace(status, ready=False, live=False, reason="report_0_0: the step's process died")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(url)
        assert refusal.value.code == 503 and json.load(refusal.value)["reason"].startswith("report_0_0")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(url + "/nothing")
        assert refusal.value.code == 404
    finally:
        health.close()


def test_health_port_has_metrics_too() -> None:
    status = Status(ready=True, live=True, reason="")
    health = Health("127.0.0.1", 0, lambda: status)

    def metrics() -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{health.port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return [line for line in answer.read().decode().splitlines() if not line.startswith("# HELP ")]

    kinds = ["# TYPE sightline_ready gauge", "# TYPE sightline_live gauge", "# TYPE sightline_restarts_total counter"]
    try:
        assert metrics() == [kinds[0], "sightline_ready 1", kinds[1], "sightline_live 1", kinds[2], "sightline_restarts_total 0"]
        status = replace(status, ready=False, restarts=3)
        assert metrics()[1::2] == ["sightline_ready 0", "sightline_live 1", "sightline_restarts_total 3"]
    finally:
        health.close()


def test_free_ports_differ_and_equal_ports_are_refused() -> None:
    settled = Ports(0, 0, 0, 0).settled("127.0.0.1")
    assert len({settled.grpc, settled.http, settled.metrics, settled.health}) == 4
    with pytest.raises(ServeError, match="must differ"):
        Ports(8001, 8001, 8002, 8003).settled("127.0.0.1")
