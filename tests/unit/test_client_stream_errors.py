"""An error inside a stream: a text without a status, after which the stream is read to its end and never cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest
import sightline
import sightline.aio
from client_fake import FakeTriton, answer
from tritonclient.grpc import service_pb2

LINES = [
    ("INVALID_ARGUMENT: BOX: expected four numbers", sightline.InvalidInput),
    ("NOT_FOUND: PRODUCT: 'nobody' is not enrolled", sightline.UnknownProduct),
    ("UNAVAILABLE: timeout: the deadline passed", sightline.Timeout),
    ("[request id: a] Exceeds maximum queue size", sightline.Overloaded),
    ("[request id: a] Request timeout expired", sightline.Timeout),
    ("[request id: a] unexpected shape for input 'BOX' for model 'inspect_stream'. Expected [4], got [3]", sightline.InvalidInput),
    ("Server is stopping, scheduler for model 'inspect_stream' has stopped accepting new inference requests", sightline.Unreachable),
    ("INTERNAL: lisa: RuntimeError", sightline.ServerFault),
    ("something else", sightline.ServerFault),
]


class Failing(FakeTriton):
    """Streams that end in an error; `ends` counts those that came to their own end afterwards."""

    def __init__(self, line: str, began: bool = False) -> None:
        super().__init__(answer)
        self.line, self.began, self.ends = line, began, 0

    def ModelStreamInfer(self, requests: object, context: grpc.ServicerContext) -> Iterator[object]:  # noqa: N802 - gRPC's name
        for request in requests:  # type: ignore[attr-defined]
            if self.began:
                yield from super().ModelStreamInfer(iter([request]), context)
            yield service_pb2.ModelStreamInferResponse(error_message=self.line)
            time.sleep(0.05)
            yield service_pb2.ModelStreamInferResponse()
            self.ends += context.is_active()


def listed(url: str, seconds: float = 10.0) -> list[sightline.Event]:
    with sightline.Client(url, timeout=seconds) as client:
        return list(client.stream(b"bad"))


def listed_by_asyncio(url: str, seconds: float = 10.0) -> list[sightline.Event]:
    async def read() -> list[sightline.Event]:
        async with sightline.aio.Client(url, timeout=seconds) as client:
            return [event async for event in client.stream(b"bad")]

    return asyncio.run(read())


@pytest.mark.parametrize("read", [listed, listed_by_asyncio])
@pytest.mark.parametrize(("line", "kind"), LINES)
def test_an_error_has_its_kind_and_the_stream_its_end(line: str, kind: type[Exception], read) -> None:
    fake = Failing(line)
    with pytest.raises(kind) as caught:
        read(fake.url)
    assert type(caught.value) is kind and fake.ends == 1 and fake.left == []
    fake.stop()


@pytest.mark.parametrize("read", [listed, listed_by_asyncio])
def test_a_server_that_is_busy_before_the_first_answer_is_passed_by(read) -> None:
    busy, sound = Failing("UNAVAILABLE: queue full"), FakeTriton(answer)
    assert isinstance(read(f"{sound.url},{busy.url}")[-1], sightline.Complete)
    assert busy.ends == 1 and len(sound.calls) == 1
    busy.stop(), sound.stop()


@pytest.mark.parametrize("read", [listed, listed_by_asyncio])
def test_an_error_after_the_verdict_is_raised_and_nobody_else_asked(read) -> None:
    torn, sound = Failing("UNAVAILABLE: queue full", began=True), FakeTriton(answer)
    with pytest.raises(sightline.Overloaded):
        read(f"{sound.url},{torn.url}")
    assert torn.ends == 1 and not sound.calls
    torn.stop(), sound.stop()


@pytest.mark.parametrize("read", [listed, listed_by_asyncio])
def test_an_error_is_told_though_the_stream_does_not_end(read) -> None:
    class Hanging(Failing):
        def ModelStreamInfer(self, requests: object, context: grpc.ServicerContext) -> Iterator[object]:  # noqa: N802 - gRPC's name
            yield from super().ModelStreamInfer(requests, context)
            while context.is_active():
                time.sleep(0.01)

    fake = Hanging("INTERNAL: lisa: RuntimeError")
    with pytest.raises(sightline.ServerFault, match="RuntimeError"):
        read(fake.url, 0.5)
    fake.stop()
