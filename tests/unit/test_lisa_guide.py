"""What the server decides of an answer: the look before it, how it opens, and which places it names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lisa_small import CONFIG, VERDICT, Asked, engine, picture
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.guide import spoken
from sightline_ensemble.lisa.limits import Limits
from sightline_ensemble.lisa.sequence import Request

QUESTION = "is it good?"


@pytest.fixture
def judging():
    """An engine whose checkpoint has a verdict, and which does not end by itself."""
    made = engine(CONFIG.with_(verdict=replace(VERDICT, scale=1.0), eos=()), Limits(threads=1, chunk=32))
    yield made
    made.close()


def heard(of: Engine, **asked: object) -> tuple[list[int], Asked]:
    """The ids of the whole answer, and its events."""
    answers: list[list[int]] = []
    decode = type(of.prompter).decode.__get__(of.prompter)
    of.prompter.decode = lambda ids: answers.append(list(ids)) or decode(ids)
    one = Asked(of, Request(picture(0), QUESTION, **asked))
    assert not one.wait().status
    return answers[-1], one


def test_a_look_gives_the_vector_and_the_probability_whatever_the_verdict(judging):
    undecided = Asked(judging, Request(picture(0), QUESTION, max_tokens=1)).wait()
    for bias, opens in ((30.0, 1), (-30.0, 0)):
        judging.sampler.verdict = replace(judging.sampler.verdict, bias=bias)
        judging.looks._kept.clear()
        found = Asked(judging, Request(picture(0), QUESTION, look=True, max_tokens=50)).wait()
        assert (found.seg_probability > 0.5) == bool(opens) and found.seg_count == 1 and found.text == "" and found.tokens == 0
        if undecided.seg_count:
            assert np.allclose(found.seg_embeddings, undecided.seg_embeddings, atol=1e-6)
    assert np.abs(found.seg_embeddings[0]).sum() > 0 and not found.seg_embeddings[1:].any()


def test_the_same_look_is_not_computed_twice(judging, monkeypatch):
    first = Asked(judging, Request(picture(0), QUESTION, look=True)).wait()
    monkeypatch.setattr(judging.runner, "run", lambda step: 1 / 0)
    again = Asked(judging, Request(picture(0), QUESTION, look=True)).wait()
    assert again.seg_probability == first.seg_probability and (again.seg_embeddings == first.seg_embeddings).all()
    for other in (Request(picture(1), QUESTION, look=True), Request(picture(0), "other?", look=True), Request(picture(0), QUESTION)):
        assert Asked(judging, other).wait().status.startswith("INTERNAL")


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("verdict", [True, False])
def test_a_decided_answer_opens_as_decided(judging, verdict, tokens):
    answer, asked = heard(judging, verdict=verdict, max_tokens=tokens, stream=True)
    opening = [VERDICT.seg, VERDICT.yes] if verdict else [VERDICT.no]
    assert answer[: len(opening)] == opening and VERDICT.seg not in answer[1:]
    assert asked.wait().tokens == tokens == len(answer) - verdict
    assert "".join(event.text for event in asked.events).startswith(judging.prompter.decode(opening))


def test_the_places_follow_the_first_at_the_and_only_it(judging):
    free, _ = heard(judging, verdict=True, max_tokens=40)
    trigger = free[4:6]
    judging.guide.before = trigger
    guided, asked = heard(judging, verdict=True, max_tokens=60, places=("top left", "center"))
    at = next(i for i in range(2, len(guided)) if guided[i - 2 : i] == trigger)
    assert guided[:at] == free[:at]
    forced = judging.prompter.text(" top left and center of the image")
    assert guided[at : at + len(forced)] == forced and asked.wait().text.count("top left and center of the image") == 1
    after, _ = heard(judging, verdict=True, max_tokens=60)
    assert after[: len(free)] == free  # the next request is nobody's


def test_forced_words_survive_preemption():
    """Three answers in too few pages: one is put back and computed again, its places with it."""
    small = engine(CONFIG.with_(verdict=VERDICT, eos=()), Limits(threads=1, cache_tokens=320))
    try:
        free, _ = heard(small, verdict=True, max_tokens=8)
        small.guide.before = free[2:4]
        wanted = {"verdict": True, "max_tokens": 220, "places": ("bottom right",)}
        asked = [Asked(small, Request(picture(seed), QUESTION, **wanted)) for seed in range(3)]
        texts = [one.wait().text for one in asked]
        assert small.scheduler.preemptions and texts[0].count("bottom right of the image") == 1
        assert all(text.count("bottom right of the image") <= 1 for text in texts)
    finally:
        small.close()


def test_an_opening_needs_room(judging):
    room = judging.config.context - len(judging.prompter.build("", (), 5))
    found = Asked(judging, Request(picture(0), "x" * (room - 2), verdict=True)).wait()
    assert found.status.startswith("INVALID_ARGUMENT: PROMPT: too long")
    assert not Asked(judging, Request(picture(0), "x" * (room - 3), verdict=True, max_tokens=50)).wait().status


def test_places_in_words():
    assert spoken(("top",)) == "top" and spoken(("top", "left", "center")) == "top, left and center"
