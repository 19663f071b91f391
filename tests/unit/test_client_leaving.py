"""A stream that is left: the server is told by a request, gRPC's cancellation follows only where that did not end it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
import sightline
import sightline.aio
from client_fake import Call, FakeTriton, report
from sightline import leaving
from waiting import within


class Endless:
    """Streams that only their clients end; how each did: left by a request, or cancelled by gRPC."""

    def __init__(self) -> None:
        self.fake = FakeTriton(self._answer)
        self.deaf = False
        self.ended: list[bool] = []  # by gRPC

    def _answer(self, call: Call) -> Iterator[dict[str, object]]:
        try:
            yield {"REPORT": json.dumps(report()), "TEXT": "No"}
            while call.context.is_active():
                time.sleep(0.01)
                if self.deaf:
                    self.fake.left.clear()
                yield {"TEXT": "."}
        finally:
            self.ended.append(not self.fake.left)


@pytest.fixture
def server() -> Iterator[Endless]:
    made = Endless()
    yield made
    made.fake.stop()


def test_closing_a_stream_ends_it_by_a_request(server: Endless) -> None:
    with sightline.Client(server.fake.url) as client:
        stream = client.stream(b"x", request_id="one")
        next(stream), next(stream)
        stream.close()
        assert within(5, lambda: server.ended == [False]) and server.fake.left == ["one"]


def test_the_connection_stays_until_the_stream_has_ended(server: Endless) -> None:
    with sightline.Client(server.fake.url) as client:
        for _ in client.stream(b"x"):
            break
    assert server.ended == [False]


def test_cancel_ends_the_stream_of_another_thread_by_a_request(server: Endless) -> None:
    with sightline.Client(server.fake.url) as client:
        stream = client.stream(b"x", request_id="one")
        next(stream)
        assert client.cancel("one")
        with pytest.raises(sightline.Cancelled, match="given up"):
            list(stream)
    assert server.ended == [False]


def test_a_server_that_knows_no_leaving_is_cancelled(server: Endless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "LEAVE_S", 0.3)
    server.deaf = True
    with sightline.Client(server.fake.url) as client:
        stream = client.stream(b"x")
        next(stream)
        stream.close()
        assert within(5, lambda: server.ended == [True])


@pytest.mark.parametrize("how", ["close", "task", "cancel"])
def test_the_asyncio_client_leaves_likewise(server: Endless, how: str) -> None:
    async def read(client: sightline.aio.Client, begun: asyncio.Event) -> None:
        async for _ in client.stream(b"x", request_id="one"):
            begun.set()

    async def leave() -> None:
        async with sightline.aio.Client(server.fake.url) as client:
            if how == "close":
                stream = client.stream(b"x", request_id="one")
                await anext(stream)
                await stream.aclose()
                return
            begun = asyncio.Event()
            task = asyncio.create_task(read(client, begun))
            await begun.wait()
            task.cancel() if how == "task" else client.cancel("one")
            with pytest.raises(asyncio.CancelledError if how == "task" else sightline.Cancelled):
                await task

    asyncio.run(leave())
    assert within(5, lambda: server.ended == [False]) and server.fake.left == ["one"]


def test_a_stream_that_ended_is_not_left() -> None:
    fake = FakeTriton(lambda call: iter([{"REPORT": json.dumps(report()), "TEXT": "No."}] * 2))
    with sightline.Client(fake.url) as client:
        assert isinstance(list(client.stream(b"x"))[-1], sightline.Complete)
    assert fake.left == []
    fake.stop()
