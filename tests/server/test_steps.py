"""Every step on the real server, over stand-in artefacts (tests/standin.py): contract of the steps, not of the weights."""

from __future__ import annotations

import io
import json
import queue
import re
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from pycocotools import mask as coco
from sightline_ensemble.serve.running import running

sys.path.insert(0, str(Path(__file__).parents[1]))
import standin  # noqa: E402

TYPES = {"BOX": "FP32", "POINTS": "FP32", "MAX_TOKENS": "INT32"}


def picture(value: int = 200, size: tuple[int, int] = (60, 40), spot: int | None = None) -> bytes:
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    if spot is not None:
        pixels[: size[1] // 3, : size[0] // 3] = spot
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("standin")


@pytest.fixture(scope="module")
def server(folder):
    repository = standin.build(Path(__file__).parents[2] / "model_repository", folder / "repository")
    arguments = ("--repository", str(repository), "--profile", standin.PROFILE, "--products", str(folder / "products"))
    with running(*arguments, "--connection-seconds", "2") as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return triton.InferenceServerClient(server.grpc)


def as_inputs(values: dict) -> list:
    inputs = []
    for name, value in values.items():
        kind = TYPES.get(name, "BYTES")
        dtype = {"FP32": np.float32, "INT32": np.int32, "BYTES": np.object_}[kind]
        listed = value if isinstance(value, list | np.ndarray) else [value]
        items = [item.encode() if isinstance(item, str) else item for item in listed] if kind == "BYTES" else listed
        data = np.array(items, dtype=dtype)
        inputs.append(triton.InferInput(name, list(data.shape), kind))
        inputs[-1].set_data_from_numpy(data)
    return inputs


def infer(client, model: str = "inspect", timeout=None, **values):
    return client.infer(model, as_inputs(values), timeout=timeout)


def report_of(result) -> dict:
    return json.loads(result.as_numpy("REPORT")[0])


def status(client, model: str = "inspect", **values) -> tuple[str, str]:
    with pytest.raises(triton.InferenceServerException) as caught:
        infer(client, model, **values)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def stream(client, metadata=None, timeout=None, **values) -> list:
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result))
    client.async_stream_infer("inspect_stream", as_inputs(values), enable_empty_final_response=True, timeout=timeout)
    found = []
    while True:
        item = answers.get(timeout=30)
        if isinstance(item, Exception):
            client.stop_stream()
            raise item
        found.append(item)
        if item.get_response().parameters["triton_final_response"].bool_param:
            client.stop_stream()
            return found


@pytest.mark.parametrize("box", [None, [5, 5, 50, 35], [-10, -10, 30, 300]])
@pytest.mark.parametrize("value", [60, 200])
def test_inspect(client, value, box):
    result = infer(client, IMAGE=picture(value), **({"BOX": box} if box else {}))
    report, mask = report_of(result), result.as_numpy("MASK")
    anomaly = value == 200
    assert (report["verdict"] == "anomaly") == anomaly == bool(mask.any()) == (report["score"] >= 0.5) == bool(report["locations"])
    assert result.as_numpy("SCORE")[0] == pytest.approx(report["score"])
    assert mask.shape == (40, 60) and report["size"] == [40, 60]
    assert (report["part"] is None) == (box is None)
    union = np.zeros((40, 60), np.uint8)
    for defect in report["defects"]:
        union |= coco.decode(defect["rle"])
    assert (union == mask).all()
    assert result.as_numpy("TEXT")[0].decode() == report["text"]
    spent = report["timings_ms"]
    assert sum(v for k, v in spent.items() if k != "total") == pytest.approx(spent["total"], abs=0.05)
    assert {"decode", "sam_encoder", "sam_decoder", "cutout", "vision_encoder", "expert", "lisa", "lisa_decoder", "report"} < set(spent)
    assert set(report["artefacts"]) >= set(standin.ENGINES) and report["profile"] == standin.PROFILE


def test_question_is_unaltered(client):
    assert report_of(infer(client, IMAGE=picture(), PROMPT=" What's wrong? "))["prompt"] == " What's wrong? "
    assert report_of(infer(client, IMAGE=picture(), PROMPT="Q?", EXPERT="It is old"))["prompt"] == "It is old. Q?"


def test_references_make_a_hint(client):
    clean = picture(120)
    good = report_of(infer(client, IMAGE=clean, REFERENCE=[clean, clean]))["experts"][0]
    result = infer(client, IMAGE=np.array([_red()], object), REFERENCE=[clean])
    bad = report_of(result)["experts"][0]
    assert good["score"] < 0.5 <= bad["score"] and "top left" in bad["text"] and good["references"] == 2
    assert result.as_numpy("HEATMAP").max() > 127
    assert infer(client, IMAGE=clean).as_numpy("HEATMAP").max() == 0


def _red() -> bytes:
    pixels = np.full((60, 60, 3), 120, np.uint8)
    pixels[:20, :20] = (255, 0, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_products(client):
    good = [picture(100 + i) for i in range(5)]
    enrolled = report_of(
        infer(client, "products", ACTION="enroll", NAME="cell", IMAGES=good, DESCRIPTION="A cell", PROMPT="Is it ok?", BOX=[2, 2, 58, 38])
    )
    assert enrolled["product"]["images"] == 5
    report = report_of(infer(client, IMAGE=picture(60), PRODUCT="cell"))
    assert re.match(r"A cell\. The part is at the center of the image\. The few-shot expert finds .* Is it ok\?$", report["prompt"])
    assert report["experts"][0]["references"] == 5 and report["part"]["box"] == [2, 2, 58, 38]
    assert [p["name"] for p in report_of(infer(client, "products", ACTION="list"))["products"]] == ["cell"]
    code, text = status(client, "products", ACTION="enroll", NAME="cell", IMAGES=[*good, b"x"])
    assert code == "INVALID_ARGUMENT" and "IMAGES[5]" in text
    assert report_of(infer(client, "products", ACTION="describe", NAME="cell"))["product"]["images"] == 5
    infer(client, "products", ACTION="remove", NAME="cell")
    assert status(client, IMAGE=picture(), PRODUCT="cell")[0] == "NOT_FOUND"
    assert status(client, "products", ACTION="remove", NAME="cell")[0] == "NOT_FOUND"
    assert status(client, "products", ACTION="dance")[0] == "INVALID_ARGUMENT"


BAD = {
    "IMAGE": [b"", b"not a picture", picture()[:90]],
    "BOX": [[0, 0, float("nan"), 5], [5, 5, 5, 9], [100, 100, 120, 120]],
    "PROMPT": ["x" * 2001, b"\xff\xfe"],
    "HISTORY": ["[", "{}", json.dumps([{"role": "user", "content": "x"}] * 33), '[{"role": "system", "content": "x"}]'],
    "MAX_TOKENS": [[0], [513]],
    "REFERENCE": [[picture(), b"x"], [picture()] * 17],
    "PRODUCT": ["Bad Name"],
    "EXPERT": ["x" * 2001],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_input_is_named(client, name, value):
    code, text = status(client, **({"IMAGE": picture()} | {name: value}))
    assert code == "INVALID_ARGUMENT" and name in text and "\n" not in text and "/" not in text.replace("x_min", "")


def test_segment(client):
    for prompt in ({}, {"BOX": [10, 10, 40, 30]}, {"POINTS": [[5, 5, 1], [20, 20, 0]]}):
        result = infer(client, "segment", IMAGE=picture(), **prompt)
        assert result.as_numpy("MASK").shape == (40, 60) and 0 <= result.as_numpy("IOU")[0] <= 1
        size = Image.open(io.BytesIO(result.as_numpy("CUTOUT")[0])).size
        assert size == ((30, 20) if "BOX" in prompt else (60, 40))
    assert status(client, "segment", IMAGE=picture(), POINTS=[[500, 5, 1]])[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("value", [60, 200])
def test_stream(client, value):
    answers = stream(client, IMAGE=picture(value))
    full = [a for a in answers if a.as_numpy("REPORT") is not None]
    first, last = report_of(full[0]), report_of(full[-1])
    assert full[0] is answers[0] and len(full) == 2 and first["verdict"] == last["verdict"]
    texts = [a.as_numpy("TEXT")[0] for a in answers if a.as_numpy("TEXT") is not None]
    assert b"".join(texts[:-1]) == texts[-1]
    assert full[0].as_numpy("MASK").shape == (40, 60)
    assert last["time_to_mask_ms"] <= last["timings_ms"]["total"]


def test_stream_errors_keep_their_code(client):
    for values, code in (({"IMAGE": b"x"}, "INVALID_ARGUMENT"), ({"IMAGE": picture(), "PRODUCT": "none"}, "NOT_FOUND")):
        with pytest.raises(triton.InferenceServerException) as caught:
            stream(client, **values)
        assert caught.value.message().startswith(f"{code}: ")


def test_timeout(client):
    start = time.monotonic()
    with pytest.raises(triton.InferenceServerException) as caught:
        infer(client, IMAGE=picture(), PROMPT="slow", timeout=150_000)
    assert caught.value.status() == "StatusCode.UNAVAILABLE" and "timeout" in caught.value.message()
    with pytest.raises(triton.InferenceServerException) as caught:
        stream(client, IMAGE=picture(), PROMPT="slow", timeout=150_000)
    assert caught.value.message().startswith("UNAVAILABLE: ")
    assert time.monotonic() - start < 3


def test_queue_full_and_no_leak(client):
    """Failing requests give their rows back: far more of them than rows, then one that works."""
    for _ in range(80):
        status(client, IMAGE=picture(), REFERENCE=[picture()[:100]])
    assert report_of(infer(client, IMAGE=picture()))["verdict"] == "anomaly"


def failed(server) -> dict[tuple[str, str], int]:
    """Step and code -> requests that failed so."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=5) as answer:
        lines = re.findall(r"^sightline_requests_failed\{(.*)\} (\d+)", answer.read().decode(), re.MULTILINE)
    found = ((dict(re.findall(r'(\w+)="(\w+)"', labels)), int(count)) for labels, count in lines)
    return {(labels["step"], labels["code"]): count for labels, count in found}


def test_each_failed_request_is_counted_once_where_it_failed(server, client, folder):
    infer(client, "products", ACTION="enroll", NAME="damaged", IMAGES=[picture(100)])
    (bank,) = (folder / "products" / "banks").glob("*.npz")
    bank.write_bytes(b"no bank")
    before = failed(server)
    assert all((step, "INTERNAL") in before for step in ("decode", "sam_encoder", "lisa", "report")), "not shown before the first one"
    assert status(client, IMAGE=picture(), PRODUCT="damaged")[0] == "INTERNAL"
    assert status(client, IMAGE=b"x")[0] == "INVALID_ARGUMENT"
    for _ in range(2):
        with pytest.raises(triton.InferenceServerException):
            stream(client, IMAGE=b"x")
    with pytest.raises(triton.InferenceServerException):
        stream(client, IMAGE=picture(), PROMPT="slow", timeout=150_000)
    after = failed(server)
    new = {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key, 0)}
    assert new == {("expert", "INTERNAL"): 1, ("decode", "INVALID_ARGUMENT"): 3, ("inspect_stream", "UNAVAILABLE"): 1}
    infer(client, "products", ACTION="remove", NAME="damaged")


def test_connections_are_renewed_and_no_call_notices(client):
    """Plain calls one after the other, and one stream that goes on while its connection is given up."""
    states, answers, asked = [], queue.Queue(), 0
    client._channel.subscribe(states.append)
    client.start_stream(lambda result, error: answers.put(error or result))
    end = time.monotonic() + 15
    while grpc.ChannelConnectivity.IDLE not in states[1:] and time.monotonic() < end:
        client.async_stream_infer("inspect_stream", as_inputs({"IMAGE": picture(60)}), enable_empty_final_response=True)
        asked += 1
        assert report_of(infer(client, IMAGE=picture()))["verdict"] == "anomaly"
    client.async_stream_infer("inspect_stream", as_inputs({"IMAGE": picture(60)}), enable_empty_final_response=True)
    client.stop_stream()
    client._channel.unsubscribe(states.append)
    assert grpc.ChannelConnectivity.IDLE in states[1:], "the connection grew older than it may"
    found = [answers.get() for _ in range(answers.qsize())]
    assert [item for item in found if isinstance(item, Exception)] == []
    assert sum(item.get_response().parameters["triton_final_response"].bool_param for item in found) == asked + 1
    assert report_of(infer(client, IMAGE=picture()))["verdict"] == "anomaly"


def test_cancelled_stream_leaves_the_server_well(client):
    for _ in range(5):
        client.start_stream(lambda result, error: None)
        client.async_stream_infer("inspect_stream", as_inputs({"IMAGE": picture(), "PROMPT": "slow"}))
        time.sleep(0.1)
        client.stop_stream(cancel_requests=True)
    assert report_of(infer(client, IMAGE=picture()))["verdict"] == "anomaly"
