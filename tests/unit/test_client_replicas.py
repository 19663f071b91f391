"""Retries, hedging, budget, cancellation and limits of both clients, against servers that count what they execute (bar B6)."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import sightline
from client_fake import FakeTriton, Refuse, answer, report
from client_replicas import Counted, both, flap, two
from sightline.policy import CAPACITY, RATIO, Budget

pair = pytest.fixture(two)

REQUESTS = 500


def executions(pair: tuple[Counted, Counted]) -> Counter[str]:
    return Counter(name for server in pair for name in server.ids)


def check_policy(done: Counter[str], requests: int) -> None:
    assert len(done) == requests and max(done.values()) <= 2
    assert done.total() <= requests * (1 + RATIO) + CAPACITY


def test_one_of_two_servers_flaps_and_every_request_succeeds(pair: tuple[Counted, Counted]) -> None:
    end = threading.Event()
    flapping = flap(pair[0], end)
    try:
        with sightline.Client(both(pair), timeout=20) as client, ThreadPoolExecutor(4) as pool:

            def one(number: int) -> str:
                time.sleep(0.02)
                return client.inspect(b"bad" if number % 3 else b"good").verdict

            verdicts, late = list(pool.map(one, range(REQUESTS))), time.monotonic() + 60
            while not taken_part(pair) and time.monotonic() < late:  # on a busy machine the client may let it rest for seconds
                verdicts += pool.map(one, range(len(verdicts), len(verdicts) + 50))
    finally:
        end.set()
        flapping.join()
    assert verdicts == ["anomaly" if number % 3 else "normal" for number in range(len(verdicts))]
    assert taken_part(pair)
    check_policy(executions(pair), len(verdicts))


def taken_part(pair: tuple[Counted, Counted]) -> bool:
    return pair[0].starts > 2 and all(len(server.ids) > 10 for server in pair)


def test_hedging_is_decided_by_the_first_answer_and_cancels_the_other(pair: tuple[Counted, Counted]) -> None:
    pair[0].slow_s = 5.0
    with sightline.Client(both(pair), timeout=20, hedge_after=0.3) as client:
        begin = time.monotonic()
        assert all(client.inspect(b"bad").anomaly for _ in range(6))
        assert time.monotonic() - begin < 4
    check_policy(executions(pair), 6)
    assert len(pair[0].ids) == 3 and len(pair[1].ids) == 6


def test_a_server_that_is_outrun_again_and_again_loses_its_turn(pair: tuple[Counted, Counted]) -> None:
    """It hangs: without a rest it would use up what may be hedged, and the requests after that would wait for their deadline."""
    pair[0].slow_s = 5.0
    with sightline.Client(both(pair), timeout=2, hedge_after=0.05) as client:
        assert all(client.inspect(b"bad").anomaly for _ in range(20))
        assert len(pair[0].ids) == 3
        for server in pair:
            server.slow_s = 0.2  # slower than the hedge, but answering: neither is rested for that
        pair[0].ids.clear()
        time.sleep(1.2)
        assert all(client.inspect(b"bad").anomaly for _ in range(4)) and len(pair[0].ids) >= 2


def test_hedging_stays_within_the_budget(pair: tuple[Counted, Counted]) -> None:
    for server in pair:
        server.slow_s = 0.06
    with sightline.Client(both(pair), timeout=20, hedge_after=0.02) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(client.inspect, [b"x"] * 80))
    done = executions(pair)
    check_policy(done, 80)
    assert done.total() > 80 + CAPACITY


def test_only_unavailable_is_retried(pair: tuple[Counted, Counted]) -> None:
    with sightline.Client(both(pair), timeout=20) as client, pytest.raises(sightline.InvalidInput):
        client.inspect(b"broken")
    assert executions(pair).total() == 1


@pytest.mark.parametrize(
    ("code", "line", "asked"),
    [("UNAVAILABLE", "UNAVAILABLE: queue full", 2), ("INTERNAL", "lisa: RuntimeError", 1), ("UNAVAILABLE", "timeout: passed", 1)],
)
def test_each_replica_is_asked_once(code: str, line: str, asked: int) -> None:
    def refuse(call: object) -> Iterator[dict[str, object]]:
        raise Refuse(grpc.StatusCode[code], line)
        yield {}

    fakes = [FakeTriton(refuse) for _ in range(2)]
    with sightline.Client(",".join(fake.url for fake in fakes)) as client, pytest.raises(sightline.NotInspected):
        client.inspect(b"x")
    with sightline.Client(fakes[0].url) as client, pytest.raises(sightline.NotInspected):
        client.inspect(b"x")
    assert sum(len(fake.calls) for fake in fakes) == asked + 1
    for fake in fakes:
        fake.stop()


def test_a_server_that_takes_and_never_answers_loses_its_turn(pair: tuple[Counted, Counted]) -> None:
    """It hangs, or its machine was switched off. The request that found out is not sent again: it may be running there."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]},{pair[0].url}"
        with sightline.Client(url, timeout=0.3) as client:
            late = 0
            for _ in range(6):
                try:
                    client.inspect(b"x", timeout=0.3)
                except sightline.Timeout:
                    late += 1
    assert late == 1 and len(pair[0].ids) == 5


def test_what_changes_the_server_is_sent_once(pair: tuple[Counted, Counted]) -> None:
    for server in pair:
        server.slow_s = 0.1
    with sightline.Client(both(pair), hedge_after=0.01) as client:
        client.enroll("cell", [b"a"])
        client.remove("cell")
    assert executions(pair).total() == 2


def test_a_stream_goes_to_another_replica_before_it_began_and_never_after(pair: tuple[Counted, Counted]) -> None:
    pair[0].stop()
    with sightline.Client(both(pair), timeout=20) as client:
        for _ in range(4):
            assert isinstance(list(client.stream(b"bad"))[-1], sightline.Complete)
    assert max(executions(pair).values()) == 1

    def cut(call: object) -> Iterator[dict[str, object]]:
        yield {"REPORT": json.dumps(report()), "TEXT": "No"}
        raise Refuse(grpc.StatusCode.UNAVAILABLE, "Socket closed", torn=True)

    torn, sound = FakeTriton(cut), FakeTriton(answer)
    with sightline.Client(f"{sound.url},{torn.url}") as client, pytest.raises(sightline.Unreachable):
        list(client.stream(b"x"))
    assert len(torn.calls) == 1 and not sound.calls
    torn.stop(), sound.stop()


def test_the_budget_is_a_share_of_the_requests() -> None:
    budget = Budget(ratio=0.5, capacity=2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend() and not budget.spend()


def test_cancel_and_close_end_a_call_in_words(pair: tuple[Counted, Counted]) -> None:
    pair[0].slow_s = 10
    client = sightline.Client(pair[0].url)
    with ThreadPoolExecutor(3) as pool:
        one, two = (pool.submit(client.inspect, b"x", request_id=name) for name in "ab")
        three = pool.submit(lambda: list(client.stream(b"x", request_id="c")))
        while len(pair[0].ids) < 3:
            time.sleep(0.01)
        assert client.cancel("a") and client.cancel("c") and not client.cancel("unknown")
        for cancelled in (one, three):
            with pytest.raises(sightline.Cancelled):
                cancelled.result(5)
        client.close()
        with pytest.raises(sightline.Cancelled):
            two.result(5)
    with pytest.raises(sightline.Cancelled, match="closed"):
        client.inspect(b"x")


@pytest.mark.parametrize("when_full", ["wait", "refuse"])
def test_requests_in_flight_are_bounded(pair: tuple[Counted, Counted], when_full: str) -> None:
    pair[0].slow_s = 0.3
    with sightline.Client(pair[0].url, max_in_flight=1, when_full=when_full) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.inspect, b"x")
        while not pair[0].ids:
            time.sleep(0.01)
        with pytest.raises(sightline.Overloaded if when_full == "refuse" else sightline.Timeout):
            client.inspect(b"x", timeout=0.05)
        assert first.result().verdict == "normal" and client.inspect(b"x").verdict == "normal"
    assert len(pair[0].ids) == 2


@pytest.mark.parametrize("url", ["", "a:1,", "a:1,a:1"])
def test_a_wrong_address_is_said(url: str) -> None:
    with pytest.raises(sightline.InvalidInput, match="url"):
        sightline.Client(url)


def test_asyncio_client_retries_hedges_limits_and_cancels(pair: tuple[Counted, Counted]) -> None:
    async def talk() -> None:
        pair[0].stop()
        async with sightline.aio.Client(both(pair), timeout=20) as client:
            reports = await asyncio.gather(*(client.inspect(b"bad") for _ in range(20)))
            assert all(found.anomaly for found in reports)
            assert [event async for event in client.stream(b"x")][-1].report.verdict == "normal"
        check_policy(executions(pair), 21)
        pair[0].start()
        pair[0].slow_s = 5
        async with sightline.aio.Client(both(pair), hedge_after=0.05) as client:
            async with asyncio.timeout(3):
                for _ in range(4):
                    await client.inspect(b"x")
        async with sightline.aio.Client(pair[0].url, max_in_flight=1, when_full="refuse") as client:
            running = asyncio.create_task(client.inspect(b"x", request_id="mine"))
            while "mine" not in pair[0].ids:
                await asyncio.sleep(0.01)
            with pytest.raises(sightline.Overloaded):
                await client.inspect(b"x")
            assert client.cancel("mine")
            with pytest.raises(sightline.Cancelled):
                await running
            streaming = asyncio.create_task(anext(client.stream(b"x", request_id="yours")))
            while "yours" not in pair[0].ids:
                await asyncio.sleep(0.01)
            streaming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await streaming

    asyncio.run(talk())
