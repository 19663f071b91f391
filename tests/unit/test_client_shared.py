"""Shared memory without a server: who gets which region, and what happens to those of the dead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
import sightline
from client_fake import FakeTriton, answer
from sightline import shared
from sightline.shared import Shared

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
    shared._sweep.cache_clear()
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


def test_regions_of_the_dead_go_and_those_of_the_living_stay(pool: Shared, stub: Stub, tmp_path: Path) -> None:
    here, birth = shared._namespace(), shared._birth(os.getpid())
    dead, reborn = f"sightline-client-{here}-{2**22 + 1}-5-1", f"sightline-client-{here}-{os.getpid()}-{birth - 1}-1"
    alive, elsewhere = f"sightline-client-{here}-{os.getpid()}-{birth}-9999", f"sightline-client-{here + 1}-{2**22 + 1}-5-1"
    others = "sightline_123_456_0_ledger"
    for name in (dead, reborn, alive, elsewhere, others):
        (tmp_path / name).touch()
    stub.names += [dead, alive, elsewhere, others]
    made = pool.make(MIB)
    assert {path.name for path in tmp_path.iterdir()} == {alive, elsewhere, others, made.name}
    assert set(stub.names) == {alive, elsewhere, others, made.name}
    for name in (alive, elsewhere, others):
        (tmp_path / name).unlink()
        stub.names.remove(name)


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


@pytest.mark.parametrize(
    ("address", "here"),
    [("localhost:8001", True), ("127.0.0.1:8001", True), ("[::1]:8001", True), ("unix:/run/x", True), ("plant-7:8001", False)],
)
def test_who_may_be_on_this_host(address: str, here: bool) -> None:
    assert shared.is_here(address) is here
