"""Shared memory without a server: who gets which region, and what happens to those of the dead."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import sightline
from client_fake import FakeTriton, answer
from sightline import shared
from sightline.shared import Shared
from tritonclient.grpc import service_pb2

MIB = 1 << 20


class Refusal(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code, self.details = lambda: code, lambda: details


class Stub:
    """Triton's part: what is registered."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.error: Exception | None = None

    def SystemSharedMemoryRegister(self, request: object, timeout: float) -> None:  # noqa: N802 - gRPC's name
        if self.error:
            raise self.error
        self.names.append(request.name)

    def SystemSharedMemoryUnregister(self, request: object, timeout: float) -> None:  # noqa: N802 - gRPC's name
        self.names.remove(request.name)

    def SystemSharedMemoryStatus(self, request: object, timeout: float) -> Stub:  # noqa: N802 - gRPC's name
        return self

    @property
    def regions(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(key=name) for name in self.names]


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def pool(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    monkeypatch.setattr(shared, "FOLDER", tmp_path)
    made = Shared(stub)
    yield made
    made.close()
    assert not list(tmp_path.iterdir()) and not stub.names


def test_a_region_is_lent_to_one_request_at_a_time(pool: Shared, stub: Stub) -> None:
    first, second = pool.make(MIB), pool.make(3 * MIB)
    assert pool.take(MIB) is None and set(stub.names) == {first.name, second.name}
    pool.free(second), pool.free(first)
    assert pool.take(MIB // 2) is first and pool.take(MIB) is second and pool.take(1) is None


def test_the_region_of_a_request_given_up_is_never_lent_again(pool: Shared, stub: Stub, tmp_path: Path) -> None:
    given_up = pool.make(MIB)
    pool.drop(given_up)
    pool.free(given_up)
    assert pool.take(1) is None and not list(tmp_path.iterdir()) and stub.names == [given_up.name]
    assert pool.make(MIB).name in stub.names and given_up.name not in stub.names


def test_contents_lie_one_behind_the_other(pool: Shared) -> None:
    region = pool.make(10)
    assert region.write([b"abc", b"de"]) == [0, 3] and region.memory[:5] == b"abcde" and region.size == MIB


def test_small_requests_and_too_many_regions_go_by_grpc(pool: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pool.wants(1000) and pool.wants(MIB)
    monkeypatch.setattr(shared, "MOST", 2 * MIB)
    assert pool.make(2 * MIB) and pool.make(MIB) is None


def left(folder: Path, name: str) -> str:
    (folder / name).touch()
    return name


def test_regions_of_the_dead_go_and_those_of_the_living_stay(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever container they lived in: their lock says it, not a number of a process. What a server holds goes with the first request."""
    monkeypatch.setattr(shared, "FOLDER", tmp_path)
    dead, alive, others = (left(tmp_path, name) for name in (f"{shared.PREFIX}7-1", f"{shared.PREFIX}7-2", "sightline_123_456_0_ledger"))
    stub.names += [dead, alive, others, f"{shared.PREFIX}7-3"]
    with (tmp_path / alive).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        made = Shared(stub)
        assert {path.name for path in tmp_path.iterdir()} == {alive, others}, "before any request"
        region = made.make(MIB)
        assert stub.names == [alive, others, region.name]
        Shared(stub)
        assert (tmp_path / region.name).exists(), "another client of this process"
        made.close()
    assert {path.name for path in tmp_path.iterdir()} == {alive, others} and stub.names == [alive, others]


def test_what_a_killed_process_left_is_removed(pool: Shared, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from sightline import shared; shared.FOLDER = pathlib.Path(sys.argv[1]); kept = shared._create(1 << 20); "
    )
    code += "print(kept.name, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        name = process.stdout.readline().strip()
        shared._sweep()
        assert (tmp_path / name).exists()
        process.kill()
    shared._sweep()
    assert not (tmp_path / name).exists()


def test_a_region_that_is_swept_while_it_is_made_is_none(pool: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = shared._locked

    def sweeping(file: int) -> bool:
        for path in tmp_path.iterdir():
            path.unlink()
        return locked(file)

    monkeypatch.setattr(shared, "_locked", sweeping)
    assert pool.make(MIB) is None and pool.wants(MIB)


def test_no_room_and_a_refusal_are_silent(pool: Shared, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        assert pool.make(MIB) is None and not list(tmp_path.iterdir())
    stub.error = Refusal(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
    assert pool.make(MIB) is None and not pool.wants(MIB) and not list(tmp_path.iterdir())
    monkeypatch.setattr(shared.time, "monotonic", lambda: 1e9)
    assert pool.wants(MIB)  # it was only away
    stub.error = Refusal(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-key'")
    assert pool.make(MIB) is None
    monkeypatch.setattr(shared.time, "monotonic", lambda: 2e9)
    assert not pool.wants(MIB)


def test_a_server_without_it_gets_the_whole_picture() -> None:
    fake, picture = FakeTriton(answer), b"bad" + bytes(MIB)
    with sightline.Client(fake.url) as client:
        assert client.inspect(picture).anomaly and client.inspect(picture).anomaly
        assert not client._replicas.all[0].shared.wants(MIB)
    assert all(call.inputs["IMAGE"] == [picture] for call in fake.calls)
    fake.stop()


class Slow(FakeTriton):
    """Answers about regions after a while."""

    seconds = 0.0

    def SystemSharedMemoryStatus(self, request: object, context: object) -> object:  # noqa: N802 - gRPC's name
        return service_pb2.SystemSharedMemoryStatusResponse()

    def SystemSharedMemoryRegister(self, request: object, context: object) -> object:  # noqa: N802 - gRPC's name
        time.sleep(self.seconds)
        return service_pb2.SystemSharedMemoryRegisterResponse()


@pytest.fixture
def slow() -> Iterator[Slow]:
    fake = Slow(answer)
    yield fake
    fake.stop()


def test_registering_takes_no_longer_than_the_request_may(slow: Slow) -> None:
    slow.seconds, begin = 1.2, time.monotonic()
    with sightline.Client(slow.url, timeout=0.2) as client, pytest.raises(sightline.Timeout):
        client.inspect(bytes(MIB))

    async def talk() -> None:
        async with sightline.aio.Client(slow.url, timeout=0.2) as client:
            with pytest.raises(sightline.Timeout):
                await client.inspect(bytes(MIB))

    asyncio.run(talk())
    assert time.monotonic() - begin < 0.9


def test_a_task_cancelled_while_its_region_is_made_leaves_it_to_the_next(slow: Slow) -> None:
    slow.seconds = 0.2

    async def talk() -> None:
        async with sightline.aio.Client(slow.url) as client:
            task = asyncio.create_task(client.inspect(bytes(MIB)))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(5):
                while not (region := client._replicas.all[0].shared.take(MIB)):
                    await asyncio.sleep(0.01)
            assert region.size >= MIB and not slow.calls

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("address", "here"),
    [("localhost:8001", True), ("127.0.0.1:8001", True), ("[::1]:8001", True), ("unix:/run/x", True), ("plant-7:8001", False)],
)
def test_who_may_be_on_this_host(address: str, here: bool) -> None:
    assert shared.is_here(address) is here
