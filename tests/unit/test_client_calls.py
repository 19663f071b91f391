"""The client's calls against a server in this process that speaks Triton's protocol."""

from __future__ import annotations

import asyncio
import json
import time

import numpy as np
import pytest
import sightline
from client_fake import FakeTriton, answer, report


@pytest.fixture
def server():
    fake = FakeTriton(answer)
    yield fake
    fake.stop()


@pytest.fixture
def client(server):
    with sightline.Client(server.url, timeout=20.0) as connected:
        yield connected


def test_inspect_sends_only_what_is_given(server, client):
    found = client.inspect(b"bad")
    call = server.calls[0]
    assert found.anomaly and found.mask.sum() == 48 and found.heatmap.shape == (3, 4)
    assert list(call.inputs) == ["IMAGE"] and call.id and 19_900_000 < call.timeout_us <= 20_000_000
    assert call.outputs == ["REPORT", "HEATMAP"]
    assert 19 < call.context.time_remaining() <= 20 or not call.context.is_active()


def test_every_input_is_sent_as_the_contract_types_it(server, client):
    turns = [{"role": "user", "content": "Grün?"}]
    client.inspect(
        b"x", prompt="Wo?", product="cell", box=(1, 2, 3.5, 4), reference=[b"a", b"bb"], expert="e", history=turns, max_tokens=5, timeout=3
    )
    inputs = server.calls[0].inputs
    assert inputs["PROMPT"] == [b"Wo?"] and inputs["PRODUCT"] == [b"cell"] and inputs["EXPERT"] == [b"e"]
    assert inputs["BOX"].dtype == np.float32 and inputs["BOX"].tolist() == [1, 2, 3.5, 4] and inputs["REFERENCE"] == [b"a", b"bb"]
    assert json.loads(inputs["HISTORY"][0]) == turns and inputs["MAX_TOKENS"].dtype == np.int32 and inputs["MAX_TOKENS"].tolist() == [5]
    assert 2_900_000 < server.calls[0].timeout_us <= 3_000_000


def test_unknown_options_and_bad_numbers_stay_here(server, client):
    with pytest.raises(TypeError):
        client.inspect(b"x", promt="typo")
    with pytest.raises(sightline.InvalidInput, match="BOX"):
        client.inspect(b"x", box=["a", 0, 1, 1])
    assert not server.calls


def test_stream_gives_the_verdict_first(server, client):
    events = list(client.stream(b"bad"))
    first, *pieces, last = events
    assert isinstance(first, sightline.Verdict) and isinstance(last, sightline.Complete) and first.report.mask.any()
    assert all(isinstance(piece, sightline.Piece) for piece in pieces) and len(pieces) == 4
    assert first.text + "".join(piece.text for piece in pieces) == last.report.text
    assert server.calls[0].model == "inspect_stream"
    assert "triton_grpc_error" not in server.calls[0].metadata  # with it an error cancels the stream, which may end the server


@pytest.mark.parametrize("cut", [[], [{"REPORT": json.dumps(report()), "TEXT": "No"}], [{"TEXT": "No"}]])
def test_a_stream_that_is_cut_off_is_no_inspection(cut):
    fake = FakeTriton(lambda call: iter(cut))
    with sightline.Client(fake.url) as client, pytest.raises(sightline.ServerFault):
        list(client.stream(b"x"))
    fake.stop()


def test_errors_of_unary_calls_and_streams(client):
    with pytest.raises(sightline.InvalidInput, match="^IMAGE: cannot be decoded, expected JPEG$"):
        client.inspect(b"broken")
    with pytest.raises(sightline.InvalidInput, match="^IMAGE"):
        list(client.stream(b"broken"))


def test_the_deadline_holds():
    def slow(call):
        time.sleep(1)
        yield from answer(call)

    fake = FakeTriton(slow)
    with sightline.Client(fake.url, timeout=0.2) as client:
        with pytest.raises(sightline.Timeout):
            client.inspect(b"x")
        with pytest.raises(sightline.Timeout):
            list(client.stream(b"x"))
    fake.stop()


def test_segment_and_products(server, client):
    part = client.segment(b"x", box=(0, 0, 9, 9), points=[(1, 2, 1), (3, 4, 0)])
    assert part.mask.shape == (30, 40) and part.iou == pytest.approx(0.98) and part.cutout == b"\x89PNG"
    assert server.calls[0].inputs["POINTS"].shape == (2, 3)
    client.enroll("cell", [b"a", b"b"], description="A cell.")
    client.remove("cell")
    client.describe("cell")
    assert client.products()["products"][0]["name"] == "cell"
    enroll, remove, describe, listing = (call.inputs for call in server.calls[1:])
    assert enroll["ACTION"] == [b"enroll"] and enroll["IMAGES"] == [b"a", b"b"] and enroll["DESCRIPTION"] == [b"A cell."]
    assert remove["ACTION"] == [b"remove"] and describe["NAME"] == [b"cell"] and list(listing) == ["ACTION"]


def test_large_answers_and_pictures_pass():
    mask = np.ones((3000, 3000), np.uint8)
    fake = FakeTriton(lambda call: iter([{"MASK": mask, "IOU": np.ones(1, np.float32), "CUTOUT": b"x"}]))
    with sightline.Client(fake.url) as client:
        assert client.segment(bytes(8_000_000)).mask.all()
    fake.stop()


def test_asyncio_client(server):
    async def talk():
        async with sightline.aio.Client(server.url) as client:
            reports = await asyncio.gather(*(client.inspect(picture) for picture in (b"bad", b"x")))
            events = [event async for event in client.stream(b"bad")]
            with pytest.raises(sightline.InvalidInput):
                await client.inspect(b"broken")
            part = await client.segment(b"x")
            return [found.verdict for found in reports], events, part, await client.products(), await client.ready()

    verdicts, events, part, listing, ready = asyncio.run(talk())
    assert verdicts == ["anomaly", "normal"] and isinstance(events[-1], sightline.Complete) and len(events) == 6
    assert part.mask.any() and listing["products"] and ready
