"""Requests that are given up, and clients that are closed, at any moment: always in the words of the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import sightline
from client_fake import Call, FakeTriton, answer, busy_pair
from client_replicas import Counted, two
from sightline import race, wire
from sightline.shared import LEAST
from waiting import within

pair = pytest.fixture(two)


@pytest.fixture
def full() -> Iterator[tuple[FakeTriton, FakeTriton]]:
    with busy_pair() as fakes:
        yield fakes


@pytest.mark.parametrize("streams", [False, True], ids=["inspect", "stream"])
def test_nothing_is_sent_after_cancel_said_yes(full: tuple[FakeTriton, FakeTriton], streams: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request waits to be sent again when it is given up."""
    monkeypatch.setattr(race, "backoff", lambda attempt: 0.2)
    url = ",".join(fake.url for fake in full)
    sent = lambda: sum(len(fake.calls) for fake in full)  # noqa: E731
    with sightline.Client(url) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(client.stream(b"x", request_id="a")) if streams else client.inspect(b"x", request_id="a"))
        assert within(10, sent)
        assert client.cancel("a")
        with pytest.raises(sightline.Cancelled, match="given up"):
            waiting.result(5)
        assert sent() == 1 and not client.cancel("a")

    async def talk() -> None:
        async with sightline.aio.Client(url) as client:
            events = client.stream(b"x", request_id="b")
            waiting = asyncio.create_task(anext(events) if streams else client.inspect(b"x", request_id="b"))
            while sent() < 2:
                await asyncio.sleep(0.005)
            assert client.cancel("b")
            with pytest.raises(sightline.Cancelled, match="given up"):
                await waiting

    asyncio.run(talk())
    assert sent() == 2


def test_a_request_that_waits_for_its_place_can_be_given_up(pair: tuple[Counted, Counted]) -> None:
    pair[0].slow_s = 0.3
    with sightline.Client(pair[0].url, max_in_flight=1) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.inspect, b"x", request_id="first")
        assert within(10, lambda: pair[0].ids)
        second = pool.submit(client.inspect, b"x", request_id="second")
        assert within(10, lambda: client.cancel("second"))
        assert first.result().verdict == "normal"
        with pytest.raises(sightline.Cancelled):
            second.result(5)
        with pytest.raises(sightline.InvalidInput, match="in flight already"):
            third = pool.submit(client.inspect, b"x", request_id="third")
            assert within(10, lambda: "third" in pair[0].ids)
            client.inspect(b"x", request_id="third")
        assert third.result().request_id == "third", "the second of that name has not taken the first one's place"
        assert client.inspect(b"x", request_id="second").verdict == "normal", "the name is free again"
    assert pair[0].ids == ["first", "third", "second"]


def test_a_closed_channel_is_said_in_the_contracts_words(pair: tuple[Counted, Counted]) -> None:
    """As where another thread closes the client between two steps of a request."""
    client = sightline.Client(pair[0].url)
    client._replicas.all[0].channel.close()
    for call in (lambda: client.inspect(b"x"), lambda: list(client.stream(b"x")), client.ready):
        with pytest.raises(sightline.Cancelled, match="the client is closed"):
            call()

    async def talk() -> None:
        client = sightline.aio.Client(pair[0].url)
        await client._replicas.all[0].channel.close()
        for call in (client.inspect(b"x"), anext(client.stream(b"x")), client.ready()):
            with pytest.raises(sightline.Cancelled, match="the client is closed"):
                await call

    asyncio.run(talk())


def test_a_client_closed_while_requests_wait_ends_them_in_words(pair: tuple[Counted, Counted]) -> None:
    pair[0].slow_s = 5

    async def talk() -> list[BaseException]:
        client = sightline.aio.Client(pair[0].url, max_in_flight=1)
        calls = [asyncio.create_task(client.inspect(b"x")) for _ in range(3)]
        while not pair[0].ids:
            await asyncio.sleep(0.005)
        await client.close()
        return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(error) for error in asyncio.run(talk())] == [sightline.Cancelled] * 3


def test_a_region_that_is_gone_is_replaced_by_bytes() -> None:
    """Another request finds the server started anew, and unmaps the region, while this one is about to write."""

    def gone(contents: list[bytes]) -> list[int]:
        raise ValueError("mmap closed or invalid")

    tensors = wire.inspection(bytes(LEAST))
    region = SimpleNamespace(name="r", write=gone)
    made = wire.request("inspect", tensors, 1.0, region=region)  # type: ignore[arg-type]
    assert [len(content) for content in made.raw_input_contents] == [LEAST + 4] and not made.inputs[0].parameters


@pytest.mark.parametrize("broken", [0, 1], ids=["verdict", "piece"])
def test_text_that_is_none_is_a_fault_of_the_server(broken: int) -> None:
    def torn(call: Call) -> Iterator[dict[str, object]]:
        for number, outputs in enumerate(answer(call)):
            yield {**outputs, "TEXT": b"\xff"} if number == broken else outputs

    fake = FakeTriton(torn)
    with sightline.Client(fake.url) as client, pytest.raises(sightline.ServerFault, match="TEXT is not UTF-8"):
        list(client.stream(b"x"))
    fake.stop()


def test_text_that_utf8_cannot_hold_is_invalid() -> None:
    with pytest.raises(sightline.InvalidInput, match="PROMPT"):
        wire.inspection(b"x", prompt="\ud800")
