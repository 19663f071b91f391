"""Large inputs in shared memory, with a real tritonserver: the right bytes arrive, and nothing is left behind (bar B5)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import echo
import pytest
import sightline
from sightline_ensemble.serve.running import Running, running
from tritonclient.grpc import InferenceServerClient
from waiting import within

MIB = 1 << 20
CLIENT = """
import os, sys, sightline
client = sightline.Client(sys.argv[1])
client.inspect(bytes(2_000_000))
assert client._replicas.all[0].shared._all
{end}
"""


def mine() -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith("sightline-client-")]


def registered(server: Running) -> set[str]:
    with InferenceServerClient(server.grpc) as client:
        return set(client.get_system_shared_memory_status(as_json=True).get("regions", {}))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return echo.write(tmp_path_factory.mktemp("echo") / "models")


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Running]:
    with running("--repository", str(repository), "--products", str(repository.parent / "products"), "--shared-memory") as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    assert not mine()
    yield
    assert not mine()


def picture(number: int, size: int = 2 * MIB) -> bytes:
    return number.to_bytes(8, "little") + os.urandom(size - 8)


def arrived(report: sightline.Report, sent: bytes) -> bool:
    return report.text == hashlib.sha256(sent).hexdigest()


def test_each_request_is_answered_about_its_own_picture(server: Running) -> None:
    sent = [picture(number, MIB + 137 * number) for number in range(24)]
    with sightline.Client(server.grpc) as client, ThreadPoolExecutor(6) as pool:
        reports = list(pool.map(client.inspect, sent * 2))
        assert all(map(arrived, reports, sent * 2))
        assert 1 <= len(registered(server)) <= 6 and registered(server) == set(mine())
        assert arrived(client.inspect(sent[0][:1000]), sent[0][:1000]) and len(mine()) <= 6  # a small one goes by gRPC
    assert not registered(server)


def test_asyncio_client_does_the_same(server: Running) -> None:
    sent = [picture(number) for number in range(6)]

    async def talk() -> list[sightline.Report]:
        async with sightline.aio.Client(server.grpc) as client:
            reports = await asyncio.gather(*map(client.inspect, sent))
            assert registered(server) == set(mine()) != set()
            return reports

    assert all(map(arrived, asyncio.run(talk()), sent)) and not registered(server)


@pytest.mark.parametrize("end", ["", "raise ValueError('mine')", "sys.exit(3)", "client.close()"])
def test_a_client_that_ends_leaves_nothing(server: Running, end: str) -> None:
    ended = subprocess.run([sys.executable, "-c", CLIENT.format(end=end), server.grpc], capture_output=True, text=True)
    assert ended.returncode == {"raise ValueError('mine')": 1, "sys.exit(3)": 3}.get(end, 0), ended.stderr
    assert "AssertionError" not in ended.stderr and not mine() and not registered(server)


def test_what_a_killed_client_left_is_removed_by_the_next(server: Running) -> None:
    killed = subprocess.run([sys.executable, "-c", CLIENT.format(end="os.kill(os.getpid(), 9)"), server.grpc])
    assert killed.returncode == -9 and len(mine()) == 1 and registered(server) == set(mine())
    with sightline.Client(server.grpc) as client:
        assert not mine()
        client.inspect(picture(0))
        assert len(mine()) == 1 and registered(server) == set(mine())
    assert not registered(server)


def test_a_server_started_anew_is_asked_again(repository: Path) -> None:
    options = ("--repository", str(repository), "--products", str(repository.parent / "products"), "--shared-memory")
    sent = picture(1)
    with running(*options) as first, sightline.Client(first.grpc) as client:
        assert arrived(client.inspect(sent), sent) and registered(first)
        first.stop()
        with running(*options, "--grpc-port", first.grpc.rpartition(":")[2]) as second:
            assert within(10, lambda: client.ready())
            assert arrived(client.inspect(sent), sent) and not registered(second)
            assert arrived(client.inspect(sent), sent) and registered(second) == set(mine())


def test_a_server_that_does_not_allow_it_gets_bytes(repository: Path) -> None:
    sent = picture(1)
    with running("--repository", str(repository), "--products", str(repository.parent / "products")) as shut:
        with sightline.Client(shut.grpc) as client:
            assert all(arrived(client.inspect(sent), sent) for _ in range(2)) and not mine()
            assert not client._replicas.all[0].shared.wants(MIB)
