"""Whether streams are served: what answers, what counts as no answer, and when that is enough to restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from client_fake import Call, FakeTriton, Refuse
from sightline_ensemble.serve import streams
from sightline_ensemble.serve.launcher import Ports, Settings
from sightline_ensemble.serve.outside import Outside, Tls
from sightline_ensemble.serve.streams import Streams


def refuse(call: Call) -> Iterator[dict[str, object]]:
    raise Refuse(grpc.StatusCode.NOT_FOUND, "unknown model")


class Stuck(FakeTriton):
    """The thread for streams waits for ever."""

    def ModelStreamInfer(self, requests, context):  # noqa: N802 - gRPC's name
        while context.is_active():
            time.sleep(0.01)
        yield from ()


def test_an_answer_or_an_error_is_served_and_silence_is_not() -> None:
    for fake, expected in ((FakeTriton(refuse), True), (Stuck(refuse), False)):
        assert streams.served(fake.url, 0.5) is expected
        fake.stop()


def test_what_is_asked_inspects_nothing() -> None:
    fake = FakeTriton(refuse)
    assert streams.served(fake.url, 5) and fake.left == [streams.NOBODY] and fake.calls == []
    fake.stop()


def test_once_is_chance_and_twice_is_a_fault() -> None:
    tried = Streams("localhost:1", period=30.0, next_at=30.0)
    assert not tried.due(29.9) and tried.due(30.0)
    assert tried.outcome(40.0, False) == "" and not tried.due(40.5) and tried.due(41.0)
    assert tried.outcome(41.0, True) == "" and not tried.due(70.9) and tried.due(71.0)
    assert tried.outcome(80.0, False) == "" and tried.outcome(90.0, False) == "streams are not served"


@pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", "127.0.0.1:7"), ("10.0.0.3", "10.0.0.3:7")])
def test_where_they_are_tried(host: str, expected: str, tmp_path: Path) -> None:
    settings = Settings(tmp_path, "tiny", tmp_path, host=host, ports=Ports(grpc=7))
    assert streams.address(settings) == expected
    secured = Settings(tmp_path, "tiny", tmp_path, host=host, ports=Ports(grpc=7), outside=Outside(tls=Tls(tmp_path / "a", tmp_path / "b")))
    assert streams.address(secured) is None and not Streams(None, 1.0, 0.0).due(9.0)
