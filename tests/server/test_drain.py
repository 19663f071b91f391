"""SIGTERM under load: who was admitted is answered, everybody else is refused in words, nobody hangs, nothing is left (bar B3)."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import sightline
from conftest import REPOSITORY
from PIL import Image
from sightline_ensemble import ledger
from sightline_ensemble.errors import RequestError
from sightline_ensemble.serve import drain, processes
from sightline_ensemble.serve.running import Running, running
from test_serve import leftovers, triton_of
from waiting import within

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import standin  # noqa: E402

pytestmark = pytest.mark.alone

CLIENTS, REQUESTS, PICTURES = 16, 600, 500
REFUSAL = "the server is stopping, try another one"
# Triton's own, at its door, and gRPC's once the port is shut
ENDED = re.compile(r"Server is stopping|has no available versions|failed to connect|[Cc]onnection (refused|reset)|Socket closed|GOAWAY")
# "slow" makes the stand-in language model take some 0.4 s: at any moment several are between two steps
KINDS: tuple[Callable[[sightline.Client, bytes], object], ...] = (
    lambda client, picture: client.inspect(picture, prompt="slow?"),
    lambda client, picture: list(client.stream(picture, prompt="slow?")),
    lambda client, picture: client.segment(picture),
)


@dataclass
class Outcome:
    """What became of each request; `refused` with the moment it was sent and the seconds until its error."""

    answered: int = 0
    refused: list[tuple[float, float, str]] = field(default_factory=list)
    other: list[Exception] = field(default_factory=list)
    verdicts: int = 0
    numbers: count = field(default_factory=count)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, address: str, picture: bytes) -> None:
        with sightline.Client(address, timeout=40) as client:
            while (number := next(self.numbers)) < REQUESTS:
                begin = time.monotonic()
                try:
                    KINDS[number % len(KINDS)](client, picture)
                    with self.lock:
                        self.answered += 1
                        self.verdicts += number % len(KINDS) < 2  # `segment` gives none
                except (sightline.Overloaded, sightline.Unreachable) as error:
                    self.refused.append((begin, time.monotonic() - begin, str(error)))
                    time.sleep(0.02)
                except Exception as error:
                    self.other.append(error)


def enrol(address: str, pictures: list[bytes]) -> str:
    """Nothing, or why not."""
    try:
        with sightline.Client(address, timeout=60) as client:
            client.enroll("part", pictures, box=(8, 8, 88, 56))  # with a box each takes three steps
    except sightline.NotInspected as error:
        return str(error)
    return ""


def rows_of(server: Running) -> ledger.Ledger:
    path = next(processes.SHARED_MEMORY.glob(f"sightline_{server.process.pid}_*_ledger"))
    return ledger.Ledger(path)


def closed(rows: ledger.Ledger) -> bool:
    try:
        rows.release(rows.admit())
    except RequestError as error:
        return REFUSAL in str(error)
    return False


@pytest.fixture
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("L", (96, 64), 200).save(file, "PNG")
    return file.getvalue()


@pytest.mark.timeout(180)
def test_sigterm_under_load(tmp_path: Path, picture: bytes) -> None:
    repository = standin.build(REPOSITORY, tmp_path / "repository")
    seen = Outcome()
    words = ("--repository", str(repository), "--profile", standin.PROFILE, "--products", str(tmp_path / "products"))
    words += ("--audit", str(tmp_path / "audit.jsonl"), "--exit-seconds", "60")
    with running(*words) as server, ThreadPoolExecutor(1) as pool:
        threads = [threading.Thread(target=seen.work, args=(server.grpc, picture), daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        rows = rows_of(server)
        assert within(30, lambda: seen.answered >= 10 and rows.in_flight() >= CLIENTS // 2)
        family = [triton_of(server), *processes.stubs(triton_of(server))]
        long = pool.submit(enrol, server.grpc, [picture] * PICTURES)
        time.sleep(0.5)
        before, admitted = seen.answered, rows.in_flight() - 1
        told = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert within(15, lambda: closed(rows))
        assert REFUSAL in enrol(server.grpc, [picture])
        assert not long.done(), "it should take longer than that"
        assert server.process.wait(70) == 0
        assert long.result() == "", "an enrolment that was admitted was not finished"
        for thread in threads:
            thread.join(40)
    assert not any(thread.is_alive() for thread in threads), "a request hangs"
    assert seen.other == []
    assert seen.answered + len(seen.refused) == REQUESTS and seen.refused
    assert seen.answered - before >= admitted, "somebody who was admitted was not answered"
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert len(lines) == seen.verdicts + sum(line["request"] == "canary" for line in lines)
    assert {line["verdict"] for line in lines} <= {"normal", "anomaly"} and all(line["artefacts"] for line in lines)
    assert not any("slow" in json.dumps(line) for line in lines), "words of a prompt"
    assert all(REFUSAL in line or (begin > told and ENDED.search(line)) for begin, _, line in seen.refused), "admitted, then refused"
    told_so = sorted(seconds for begin, seconds, line in seen.refused if begin > told and REFUSAL in line)
    assert told_so and told_so[len(told_so) // 2] < 0.5, "a refusal must come at once"
    # who is in the first step when Triton is told at last waits longer: it answers those one after the other, half a second each
    assert max(seconds for _, seconds, _ in seen.refused) < 10
    assert [pid for pid in family if processes.process(pid)] == [] and leftovers(server) == []


def test_a_closed_ledger_admits_nobody_and_empties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "path_of", lambda run: tmp_path / run)
    rows = ledger.Ledger(tmp_path / "run")
    ticket = rows.admit()
    assert drain.empty("run", time.monotonic() + 0.1, lambda: None) is False
    with pytest.raises(RequestError, match="UNAVAILABLE: the server is stopping"):
        rows.admit()
    threading.Timer(0.1, rows.release, [ticket]).start()
    assert drain.empty("run", time.monotonic() + 10, lambda: None) is True
    assert drain.empty("another", time.monotonic() + 10, lambda: None) is True


def test_a_dead_server_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "path_of", lambda run: tmp_path / run)
    ledger.Ledger(tmp_path / "run").admit()
    begin = time.monotonic()
    assert drain.empty("run", begin + 10, lambda: -9) is False and time.monotonic() - begin < 5
