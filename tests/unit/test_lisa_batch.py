"""Batch invariance on the tiny model's own weights: 64 requests that come at random times answer as each of them alone."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from lisa_small import Asked
from safetensors.torch import load_file
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.lisa.cache import Pages
from sightline_ensemble.lisa.config import LisaConfig
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.int4 import Tensors, dense
from sightline_ensemble.lisa.limits import Limits, use
from sightline_ensemble.lisa.runner import Runner, build_model
from sightline_ensemble.lisa.scheduler import Decode, Prefill
from sightline_ensemble.lisa.sequence import Event, Request, Sequence
from tokenizers import Tokenizer

FOLDER = load_manifest(Path(__file__).resolve().parents[2] / "model_repository" / "lisa_engine", "tiny").folder
LAYERS = 4  # of thirty: the same kernels and shapes in an eighth of the time
COUNT = 64


@cache
def stored() -> Tensors:
    return load_file(FOLDER / "model.safetensors")


def plain() -> Tensors:
    """Every weight as the numbers it stands for."""
    kept = {name: value for name, value in stored().items() if not name.endswith((".q4", ".sz", ".q8", ".s8", ".d8"))}
    made = {name.rsplit(".", 1)[0] for name in stored() if name.endswith((".q4", ".q8"))}
    return kept | {f"{name}.weight": dense(stored(), name) for name in made}


def engine(kind: str, limits: Limits) -> Engine:
    config = LisaConfig.read(FOLDER / "config.json")
    assert config.verdict
    often = replace(config.verdict, scale=0.01, bias=1.0)  # so few layers would say no to everything
    config = config.with_(num_layers=LAYERS, eos=(), verdict=often)
    if kind == "fp32":
        config = config.with_(dtype="float32")
    model = build_model(config, plain() if kind == "fp32" else stored(), torch.device("cpu"))
    return Engine(model, Tokenizer.from_file(str(FOLDER / "tokenizer.json")), limits=limits)


def requests(width: int) -> list[Request]:
    draw = np.random.default_rng(4)
    return [
        Request(
            3 * draw.standard_normal((16, width)).astype(np.float32),
            "What is wrong?" + " why" * int(draw.integers(0, 30)),
            max_tokens=int(draw.integers(1, 9)),
            stream=True,
        )
        for _ in range(COUNT)
    ]


class Kept:
    """The tokens of every answer, as the engine chose them."""

    def __init__(self, of: Engine) -> None:
        self.of, self.tokens, take = of, {}, of._take

        def kept(sequence, token, hidden):
            self.tokens.setdefault(id(sequence.request), []).append(token)
            take(sequence, token, hidden)

        of._take = kept

    def answers(self, asked: list[Request], pause: float) -> list[tuple[list[int], Event]]:
        """At random times, about `pause` seconds apart; one after the other where it is 0."""
        draw, waiting = np.random.default_rng(5), []
        for request in asked:
            waiting.append(Asked(self.of, request))
            time.sleep(float(draw.exponential(pause))) if pause else waiting[-1].wait()
        finals = [each.wait() for each in waiting]
        self.of.close()
        return [(self.tokens[id(request)], final) for request, final in zip(asked, finals, strict=True)]


@pytest.mark.parametrize("kind", ["int4", "fp32"])
def test_each_of_64_answers_as_alone(kind):
    """The tokens of fp32, the very bits of the served form: its masks are those of alone, whatever IoU one asks for."""
    alone = Kept(engine(kind, Limits(threads=1)))
    asked = requests(alone.of.config.image_width)
    expected = alone.answers(asked, 0)
    crowd = Kept(engine(kind, Limits(threads=1, chunk=64, running=12)))
    sizes: list[int] = []
    run = crowd.of.runner.run
    crowd.of.runner.run = lambda step: sizes.append(len(step.sequences)) or run(step)
    found = crowd.answers(asked, 0.004)
    assert max(sizes) >= 4 and sum(final.seg_count for _, final in expected) > 5
    for (tokens, final), (tokens_alone, final_alone) in zip(found, expected, strict=True):
        assert not final.status and tokens == tokens_alone and final.text == final_alone.text
        tolerance = 0 if kind == "int4" else 1e-4
        assert final.seg_probability == pytest.approx(final_alone.seg_probability, abs=tolerance)
        np.testing.assert_allclose(final.seg_embeddings, final_alone.seg_embeddings, atol=tolerance, rtol=0)


def sequences(runner: Runner, lengths: list[int]) -> list[Sequence]:
    """Prompts of random tokens, each with pages of its own; nothing is computed."""
    pages, draw, found = Pages(runner.pages), np.random.default_rng(6), []
    for length in lengths:
        ids = draw.integers(3, 49000, length).tolist()
        found.append(Sequence(Request(np.zeros((0, 256), np.float32), ""), print, ids, length, 9, b"", 0))
        assert pages.grow(found[-1], length)
    return found


def computed(runner: Runner, sequence: Sequence, counts: list[int]) -> torch.Tensor:
    """The hidden state at the end of a prompt computed in parts."""
    sequence.computed = 0
    for count in counts:
        hidden = runner.run(Prefill(sequence, count)).clone()
        sequence.computed += count
    return hidden


def test_the_served_form_gives_the_same_bits_however_a_prompt_is_cut_and_whoever_is_near():
    """Lengths that leave attention a block of few queries, parts of few rows, batches of few sequences."""
    of = engine("int4", Limits(threads=1))
    of.close()
    use(1)
    lengths = [33, 35, 66, 74, 97, 105, 131]
    found = sequences(of.runner, lengths)
    for sequence, length in zip(found, lengths, strict=True):
        whole = computed(of.runner, sequence, [length])
        for last in (1, 2, 19):
            assert torch.equal(computed(of.runner, sequence, [length - last, last]), whole), (length, last)
        sequence.computed = length - 1
    together = of.runner.run(Decode(found)).clone()
    for count in (1, 2, 3, 5):
        assert torch.equal(of.runner.run(Decode(found[:count])), together[:count]), count
