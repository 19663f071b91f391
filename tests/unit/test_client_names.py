"""`dns:///NAME:PORT`: each address of the name is a server of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import sightline
from client_fake import FakeTriton, answer, busy_pair
from client_replicas import Counted, two
from sightline import names, replicas
from sightline.names import Name

pair = pytest.fixture(two)


class Book:
    """What a name stands for."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.looks = 0

    def getaddrinfo(self, host: str, port: str, **_: Any) -> list[Any]:
        self.looks += 1
        if not self.urls:
            raise socket.gaierror(-2, "Name or service not known")
        places = [tuple(url.rsplit(":", 1)) for url in self.urls]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port))) for host, port in places]


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    made = Book()
    monkeypatch.setattr(names.socket, "getaddrinfo", made.getaddrinfo)
    return made


@pytest.fixture
def busy() -> Iterator[tuple[FakeTriton, FakeTriton]]:
    with busy_pair() as fakes:
        yield fakes


def test_a_name_of_one_server_is_asked_once(busy: tuple[FakeTriton, FakeTriton]) -> None:
    url = "dns:///127.0.0.1:" + busy[0].url.rpartition(":")[2]
    with sightline.Client(url, hedge_after=0.01) as client, pytest.raises(sightline.Overloaded):
        client.inspect(b"x")

    async def talk() -> None:
        async with sightline.aio.Client(url) as client:
            with pytest.raises(sightline.Overloaded):
                await client.inspect(b"x")

    asyncio.run(talk())
    assert len(busy[0].calls) == 2


def test_each_server_of_a_name_is_asked_once(busy: tuple[FakeTriton, FakeTriton], book: Book) -> None:
    book.urls = [fake.url for fake in busy]
    with sightline.Client("dns:///plant:8001") as client:
        for number in range(4):
            with pytest.raises(sightline.Overloaded):
                client.inspect(b"x", request_id=f"{number}")
    for fake in busy:
        assert sorted(call.id for call in fake.calls) == ["0", "1", "2", "3"]


def test_servers_of_a_name_share_the_load_and_one_may_go(pair: tuple[Counted, Counted], book: Book) -> None:
    book.urls = [server.url for server in pair]
    with sightline.Client("dns:///plant:8001") as client:
        assert all(client.inspect(b"bad").anomaly for _ in range(20))
        assert len(pair[0].ids) == len(pair[1].ids) == 10
        pair[0].stop()
        assert all(client.inspect(b"bad").anomaly for _ in range(20))


def test_hedges_go_to_another_server_of_the_name(pair: tuple[Counted, Counted], book: Book) -> None:
    book.urls, pair[0].slow_s = [server.url for server in pair], 3.0
    with sightline.Client("dns:///plant:8001", hedge_after=0.05) as client:
        begin = time.monotonic()
        assert all(client.inspect(b"bad").anomaly for _ in range(4))
        assert time.monotonic() - begin < 2
    assert len(pair[0].ids) == 2 and len(pair[1].ids) == 4


def test_a_name_is_looked_up_again(pair: tuple[Counted, Counted], book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is gone is asked nothing more, and its connection ends when what it was sent must have ended."""
    monkeypatch.setattr(names, "AGAIN_S", 0.0)
    monkeypatch.setattr(replicas, "GRACE_S", 0.2)
    book.urls = [pair[0].url]
    with sightline.Client("dns:///plant:8001") as client:
        assert client.inspect(b"x").verdict == "normal"
        book.urls = [pair[1].url]
        end = time.monotonic() + 10
        while len(client._replicas.all) < 2:
            assert client.inspect(b"x").verdict == "normal" and time.monotonic() < end
        before = len(pair[0].ids)
        book.urls = []  # a name server that fails changes nothing
        time.sleep(0.25)
        assert client.inspect(b"x").verdict == "normal"
        assert len(pair[0].ids) == before and pair[1].ids and [found.address for found in client._replicas.all] == [pair[1].url]

    async def talk() -> None:
        book.urls = [pair[0].url]
        async with sightline.aio.Client("dns:///plant:8001") as client:
            gone = client._replicas.all[0].channel
            book.urls = [pair[1].url]
            async with asyncio.timeout(10):
                while client._replicas.all[-1].address == pair[0].url or len(client._replicas.all) > 1:
                    assert (await client.inspect(b"x")).verdict == "normal"
                while gone.get_state() is not grpc.ChannelConnectivity.SHUTDOWN:
                    await asyncio.sleep(0.01)

    asyncio.run(talk())


def test_no_request_waits_for_a_slow_name_server(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "PATIENCE_S", 0.1)
    monkeypatch.setattr(book, "urls", ["127.0.0.1:9"])
    quick = book.getaddrinfo

    def slow(*given: Any, **_: Any) -> list[Any]:
        time.sleep(0.4)
        return quick(*given)

    monkeypatch.setattr(names.socket, "getaddrinfo", slow)
    begin = time.monotonic()
    made = Name("plant:8001")
    assert made.addresses() == ("dns:///plant:8001",) and time.monotonic() - begin < 0.3
    made._looking.join()
    assert made.addresses() == ("127.0.0.1:9",) and book.looks == 1


def test_a_name_that_nobody_knows_is_unreachable(book: Book) -> None:
    with sightline.Client("dns:///plant.invalid:8001", timeout=20) as client, pytest.raises(sightline.Unreachable, match="plant.invalid"):
        client.inspect(b"x")


def test_of_two_families_those_that_answer_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTriton(answer)
    port = int(fake.url.rpartition(":")[2])
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))]
    found += [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    monkeypatch.setattr(names.socket, "getaddrinfo", lambda *_, **__: found)
    assert Name(f"plant:{port}").addresses() == (fake.url,)
    fake.stop()
    assert Name(f"plant:{port}").addresses() == (f"[::1]:{port}", fake.url), "all of them, where none answers"


@pytest.mark.parametrize("url", ["plant:8001", "dns:///plant", "dns://10.0.0.1/plant:8001", "unix:/run/x", "dns:///[::1]:8001"])
def test_other_forms_are_left_to_grpc(url: str) -> None:
    assert names.name(url) is None
