"""Temperature, top-p and seed: what may be asked, what is drawn, and that a draw is the request's own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from lisa_small import CONFIG, VERDICT, Asked, engine, picture
from sightline_ensemble.errors import RequestError
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.sampling import drawn
from sightline_ensemble.lisa.sequence import Request
from sightline_ensemble.parameters import Sampling

WARM = Sampling(temperature=1.5, top_p=0.95, seed=3)


@pytest.fixture(scope="module")
def of() -> Iterator[Engine]:
    made = engine(CONFIG.with_(eos=()))
    yield made
    made.close()


def ask(of: Engine, sampling: Sampling, seed: int = 0) -> Asked:
    return Asked(of, Request(picture(seed), "is it good?" + "!" * seed, max_tokens=24, sampling=sampling))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("", Sampling()),
        ('{"other": [1]}', Sampling()),
        ('{"temperature": 0.7, "top_p": 0.9, "seed": 1}', Sampling(0.7, 0.9, 1)),
        ('{"temperature": "0.7", "seed": "12"}', Sampling(0.7, 1.0, 12)),
        ('{"temperature": 1}', Sampling(1.0)),
    ],
)
def test_parameters_are_read(parameters, expected):
    found = Sampling.read(parameters)
    assert found == expected and Sampling.read(json.dumps(found.parameters)) == expected
    assert bool(found.parameters) == (found != Sampling())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", ["NaN", "Infinity", -0.1, '"hot"', "true", "null", '"1e999"']),
        ("top_p", [0, -0.5, 1.0001, "NaN", "[]"]),
        ("seed", [-1, 1.5, '"a"', "false"]),
    ],
)
def test_bad_values_name_their_parameter(name, values):
    for value in values:
        with pytest.raises(RequestError, match=f"^INVALID_ARGUMENT: {name}: .*expected"):
            Sampling.read(f'{{"{name}": {value}}}')


def test_draws_follow_the_softmax():
    logits = np.log([0.1, 0.6, 0.3])
    found = np.bincount([drawn(logits, Sampling(1.0, 1.0, seed), 0) for seed in range(2000)], minlength=3) / 2000
    assert np.allclose(found, [0.1, 0.6, 0.3], atol=0.04)
    cold = [drawn(logits, Sampling(0.2, 1.0, seed), 0) for seed in range(300)]
    assert np.mean(np.array(cold) == 1) > 0.94  # 0.6^5 / (0.6^5 + 0.3^5 + 0.1^5) = 0.97
    assert {drawn(logits, Sampling(1e-300, 1.0, seed), 0) for seed in range(20)} == {1}


def test_top_p_keeps_the_likeliest_that_reach_it():
    logits = np.log([0.1, 0.6, 0.3])
    for top_p, kept in ((0.6, {1}), (0.61, {1, 2}), (0.9, {1, 2}), (0.95, {0, 1, 2}), (1e-9, {1})):
        assert {drawn(logits, Sampling(1.0, top_p - 1e-12, seed), 0) for seed in range(200)} == kept


def test_the_same_seed_gives_the_same_answer_whoever_else_is_there(of):
    alone = ask(of, WARM).wait().text
    crowd = [ask(of, Sampling(1.0, seed=i), i) for i in range(1, 5)] + [ask(of, Sampling(), i) for i in range(5, 8)]
    among = ask(of, WARM)
    greedy = [each.wait().text for each in crowd[4:]]
    assert among.wait().text == alone
    assert greedy == [ask(of, Sampling(), i).wait().text for i in range(5, 8)]
    assert ask(of, Sampling(1.5, 0.95, 4)).wait().text != alone != ask(of, Sampling()).wait().text


def test_the_verdict_is_never_drawn():
    of = engine(CONFIG.with_(verdict=VERDICT, eos=()))
    finals = [ask(of, Sampling(5.0, seed=seed)).wait() for seed in range(6)]
    of.close()
    assert len({(final.seg_count, final.seg_probability) for final in finals}) == 1
    assert len({final.text for final in finals}) == 6
