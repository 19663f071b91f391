"""The language model behind the server: its numbers on the metrics port, temperature and seed through ensemble and stream."""

from __future__ import annotations

import io
import json
import queue
import re
import time
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from sightline_ensemble.contract import MAX_TOKENS_LIMIT


def inputs(tokens: int = 48, seed: int = 5) -> list[triton.InferInput]:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64), np.uint8)).save(buffer, "PNG")
    values = {"IMAGE": np.array([buffer.getvalue()], object), "MAX_TOKENS": np.array([tokens], np.int32)}
    found = [triton.InferInput(name, [1], "BYTES" if name == "IMAGE" else "INT32") for name in values]
    for each, value in zip(found, values.values(), strict=True):
        each.set_data_from_numpy(value)
    return found


def text(grpc: triton.InferenceServerClient, **parameters: object) -> str:
    return grpc.infer("inspect", inputs(), parameters=parameters or None).as_numpy("TEXT")[0].decode()


def streamed(grpc: triton.InferenceServerClient, **parameters: object) -> str:
    heard: queue.Queue = queue.Queue()
    grpc.start_stream(lambda result, error: heard.put((result, error)))
    try:
        grpc.async_stream_infer("inspect_stream", inputs(), parameters=parameters or None, enable_empty_final_response=True)
        while True:
            result, error = heard.get(timeout=60)
            if error:
                raise error
            if result.get_response().parameters["triton_final_response"].bool_param:
                return result.as_numpy("TEXT")[0].decode()
    finally:
        grpc.stop_stream()


WARM = {"temperature": 2.5, "top_p": 0.99, "seed": 7}


def test_temperature_and_seed_reach_the_model_by_both_ways(grpc):
    greedy, warm = text(grpc), text(grpc, **WARM)
    assert warm != greedy and text(grpc, **WARM) == warm and text(grpc, **{**WARM, "seed": 8}) != warm
    assert streamed(grpc) == greedy and streamed(grpc, **WARM) == warm
    assert text(grpc, temperature="2.5", top_p="0.99", seed=7) == warm
    assert text(grpc, seed=7) == greedy


@pytest.mark.parametrize("ask", [text, streamed])
@pytest.mark.parametrize("bad", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}])
def test_bad_parameters_are_named(grpc, ask, bad):
    with pytest.raises(triton.InferenceServerException) as caught:
        ask(grpc, **bad)
    assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", None), caught.value  # none in a stream
    assert "INVALID_ARGUMENT: " in caught.value.message()
    assert next(iter(bad)) in caught.value.message() and "expected" in caught.value.message()


def numbers(address: str) -> dict[str, float]:
    """`sightline_lisa_*` of the metrics port, buckets by their bound."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = re.findall(r"^sightline_lisa_(\S+) (\S+)$", answer.read().decode(), re.M)
    return {re.sub(r"^(\w+)\{(?:le=\"(.*)\")?\}$", r"\1\2", name): float(value) for name, value in lines}


def test_the_metrics_port_knows_what_was_answered(server, grpc):
    if not server.own:
        pytest.skip("the metrics port of somebody else's server is not known")
    time.sleep(1.2)  # published twice a second
    before = numbers(server.own.metrics)
    report = json.loads(grpc.infer("inspect", inputs(9, seed=6)).as_numpy("REPORT")[0])
    grpc.infer("inspect", inputs(9, seed=6))
    time.sleep(1.2)
    after = numbers(server.own.metrics)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["generated_tokens"] == 2 * report["tokens"] > 0
    one = grown["prompt_tokens"] / 3  # a look and two sentences, which find what it has left; the second look is remembered
    assert one >= 32 and 2 * ((one - 1) // 16 * 16) <= grown["prefix_hit_tokens"] < 3 * one
    assert grown["first_token_seconds_count"] == 2 and 0 < grown["first_token_seconds_sum"] < 60
    assert grown["mask_seconds_count"] == 1
    assert grown["first_token_seconds_bucket+Inf"] == 2
    assert after["running"] == after["waiting"] == after["cache_pages_used"] == 0 == grown["preemptions"]
    assert after["cache_pages"] * 16 > MAX_TOKENS_LIMIT
