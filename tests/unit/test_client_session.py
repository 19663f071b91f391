"""Names of requests and the chat session, of both clients."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import client_fake
import pytest
import sightline
from client_fake import FakeTriton, answer
from client_replicas import Counted, both, two
from sightline import session
from sightline.pictures import encode

pair = pytest.fixture(two)


def test_ids_and_traces_go_along_and_come_back(pair: tuple[Counted, Counted]) -> None:
    mine = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with sightline.Client(both(pair), trace=True) as client:
        assert client.inspect(b"x", request_id="part-7", traceparent=mine).request_id == "part-7"
        assert [event.report.request_id for event in client.stream(b"x", request_id="s") if hasattr(event, "report")] == ["s", "s"]
        assert client.segment(b"x").request_id
        with pytest.raises(sightline.InvalidInput) as caught:
            client.inspect(b"broken", request_id="part-8")
        assert caught.value.request_id == "part-8" and caught.value.as_json()["request_id"] == "part-8"
        for wrong in ({"traceparent": "00-1"}, {"traceparent": mine.upper()}, {"request_id": ""}, {"timeout": -1.0}, {"timeout": 0}):
            with pytest.raises(sightline.InvalidInput):
                client.inspect(b"x", **wrong)
    calls = {call.id: call for server in pair for call in server.fake.calls}
    assert calls["part-7"].metadata["traceparent"] == mine
    assert calls["part-8"].metadata["traceparent"] == caught.value.traceparent and caught.value.traceparent[-3:] == "-01"


def test_an_answer_to_another_request_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    response = client_fake._response
    monkeypatch.setattr(client_fake, "_response", lambda outputs, name="": response(outputs, "somebody else"))
    fake = FakeTriton(answer)
    with sightline.Client(fake.url) as client, pytest.raises(sightline.ServerFault, match="somebody else"):
        client.inspect(b"x")
    fake.stop()


def test_a_chat_remembers_and_forgets(pair: tuple[Counted, Counted]) -> None:
    with sightline.Client(pair[0].url) as client:
        chat = client.chat(b"bad", product="cell")
        chat.ask()
        list(chat.stream("Why?"))
        with pytest.raises(sightline.InvalidInput):
            client.chat(b"broken").ask("?")
        assert [turn["role"] for turn in chat.history] == ["user", "assistant"] * 2 and chat.history[2]["content"] == "Why?"
        chat.forget()
        chat.ask("And now?")

    async def talk() -> list[dict[str, str]]:
        async with sightline.aio.Client(pair[0].url) as client:
            chat = client.chat(b"bad")
            await chat.ask("One")
            assert [event async for event in chat.stream("Two")]
            return chat.history

    assert len(asyncio.run(talk())) == 4
    asked = [call.inputs for call in pair[0].fake.calls]
    assert all(inputs["PRODUCT"] == [b"cell"] for inputs in asked[:2]) and len(json.loads(asked[1]["HISTORY"][0])) == 2
    assert "HISTORY" not in asked[3]


def test_a_picture_is_encoded_once_and_beside_the_event_loop(
    pair: tuple[Counted, Counted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads: list[int] = []

    def watched(picture: object, name: str = "IMAGE") -> bytes:
        threads.append(threading.get_ident())
        return encode(picture, name)

    monkeypatch.setattr(session, "encode", watched)
    (tmp_path / "x.png").write_bytes(b"bad")

    async def talk() -> None:
        async with sightline.aio.Client(pair[0].url) as client:
            chat = client.chat(tmp_path / "x.png")
            assert not threads
            assert (await chat.ask()).anomaly
            (tmp_path / "x.png").unlink()
            assert [event async for event in chat.stream("Why?")] and len(threads) == 1

    asyncio.run(talk())
    assert threads[0] != threading.get_ident()
    with sightline.Client(pair[0].url) as client, pytest.raises(sightline.InvalidInput):
        client.chat(tmp_path / "x.png")
