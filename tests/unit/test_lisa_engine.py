"""The engine against a naive loop, and under company, shortage, cancellation and failure."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from lisa_small import CONFIG, VERDICT, Asked, engine, naive, picture
from sightline_ensemble.lisa import engine as module
from sightline_ensemble.lisa.limits import Limits
from sightline_ensemble.lisa.sequence import Request

QUESTION = "is it good?"


@pytest.fixture
def made():
    """Makes engines and closes them."""
    engines = []

    def make(*args: object, **kinds: object) -> module.Engine:
        engines.append(engine(*args, **kinds))
        return engines[-1]

    yield make
    for each in engines:
        each.close()


def requests(count: int, tokens: int = 24) -> list[Request]:
    return [Request(picture(i), QUESTION + "!" * (3 * i), max_tokens=tokens) for i in range(count)]


def said(of: module.Engine, asked: list[Request]) -> list[tuple[str, int]]:
    """Text and number of tokens of requests that run together."""
    finals = [each.wait() for each in [Asked(of, request) for request in asked]]
    assert not any(final.status for final in finals)
    return [(final.text, final.tokens) for final in finals]


def alone(of: module.Engine, asked: list[Request]) -> list[tuple[str, int]]:
    return [said(of, [request])[0] for request in asked]


def free_pages(of: module.Engine) -> bool:
    return len(of.scheduler.pages.free) == of.scheduler.pages.count


def test_equals_a_loop_without_a_cache(made):
    of = made()
    for request in requests(3):
        ids = of.prompter.build(request.question, (), len(request.features))
        expected = naive(of.runner.model, ids, request.features, request.max_tokens)
        final = Asked(of, request).wait()
        assert final.tokens == len(expected)
        assert final.text == of.prompter.decode(expected).strip().rstrip("\ufffd").strip()


@pytest.mark.parametrize("kinds", [{}, {"four_bit": True, "rank": 4}])
def test_a_batch_answers_as_each_alone(made, kinds):
    config = CONFIG.with_(dtype="bfloat16") if kinds else CONFIG
    asked = requests(7)
    assert said(made(config, **kinds), asked) == alone(made(config, **kinds), asked)


def test_chunked_prefill_changes_nothing(made):
    asked = requests(2)
    assert alone(made(limits=Limits(chunk=7)), asked) == alone(made(), asked)


def test_a_shared_beginning_is_found_and_changes_nothing(made):
    of, fresh = made(), made()
    first = Request(picture(1), QUESTION, max_tokens=8)
    follow = Request(picture(1), "and why?", (("user", QUESTION), ("assistant", "fine")), max_tokens=8)
    expected = said(fresh, [follow])
    said(of, [first])
    hits = of.scheduler.pages.hits
    assert said(of, [follow]) == expected
    assert of.scheduler.pages.hits - hits >= 3


def test_another_picture_shares_only_what_precedes_it(made):
    of = made()
    said(of, [Request(picture(1, 40), QUESTION, max_tokens=4)])
    before = of.prompter.build(QUESTION, (), 40).index(-1)
    hits = of.scheduler.pages.hits
    said(of, [Request(picture(2, 40), QUESTION, max_tokens=4)])
    assert of.scheduler.pages.hits - hits == before // 16


def test_when_pages_run_out_the_newest_waits_and_answers_the_same(made):
    asked = requests(6, tokens=60)
    of = made(limits=Limits(cache_tokens=CONFIG.context))
    assert said(of, asked) == alone(made(), asked)
    assert of.scheduler.preemptions > 0 and free_pages(of)


@pytest.mark.parametrize(("state", "status"), [("cancelled", "CANCELLED: "), ("expired", "UNAVAILABLE: timeout")])
def test_a_request_that_is_no_longer_wanted_ends_and_frees_its_pages(made, state, status):
    gone = threading.Event()
    of = made(CONFIG.with_(eos=()), state=lambda ticket: state if gone.is_set() and ticket[0] == 7 else "live")
    asked = Asked(of, Request(picture(0), QUESTION, max_tokens=400, ticket=(7, 0), stream=True))
    other = Asked(of, Request(picture(1), QUESTION, max_tokens=100))
    while not asked.events:
        time.sleep(0.001)
    gone.set()
    assert asked.wait().status.startswith(status) and asked.wait().text == ""
    assert not other.wait().status and free_pages(of)


def test_a_deadline_is_kept_by_the_engine_itself(made):
    of = made()
    final = Asked(of, Request(picture(0), QUESTION, max_tokens=400, ticket=(-1, time.monotonic_ns() - 1))).wait()
    assert final.status.startswith("UNAVAILABLE: timeout")


def test_a_step_that_hangs_does_not_hang_the_request(made, monkeypatch):
    of, release = made(limits=Limits(patience=0.2)), threading.Event()
    monkeypatch.setattr(of.runner, "run", lambda step: release.wait(20))
    final = Asked(of, requests(1)[0]).wait()
    release.set()
    assert final.status.startswith("UNAVAILABLE: timeout")


def test_a_broken_step_fails_only_its_own(made, monkeypatch):
    of, run = made(), None
    run = of.runner.run

    def broken(step):
        if any(s.request.question == "break" for s in step.sequences):
            raise RuntimeError("in /some/secret/path")
        return run(step)

    monkeypatch.setattr(of.runner, "run", broken)
    good, bad = Asked(of, requests(1)[0]), Asked(of, Request(picture(3), "break"))
    assert bad.wait().status == "INTERNAL: lisa_engine: RuntimeError"
    assert not good.wait().status and not Asked(of, requests(1)[0]).wait().status and free_pages(of)


def test_a_result_that_is_no_number_is_an_error_for_its_own_request(made, monkeypatch):
    of = made()
    logits = of.runner.model.logits
    poisoned = {"left": 1}

    def broken(hidden):
        out = logits(hidden)
        if poisoned["left"]:
            poisoned["left"] = 0
            out[0] = torch.nan
        return out

    monkeypatch.setattr(of.runner.model, "logits", broken)
    assert Asked(of, requests(1)[0]).wait().status == "INTERNAL: lisa_engine: NotFinite"
    assert not Asked(of, requests(1)[0]).wait().status


def test_a_listener_that_fails_harms_nobody(made):
    of = made()

    def deaf(event):
        raise OSError

    of.submit(requests(1)[0], deaf)
    assert not Asked(of, requests(2)[1]).wait().status and not of.live


def test_refusals(made):
    of = made()
    long = Asked(of, Request(picture(0), "x" * 600)).wait()
    assert long.status.startswith("INVALID_ARGUMENT: PROMPT: too long: the prompt has 668") and "511" in long.status
    turns = (("user", "y" * 500), ("assistant", "z"))
    assert Asked(of, Request(picture(0), "x", turns)).wait().status.startswith("INVALID_ARGUMENT: HISTORY: too long")
    assert Asked(of, Request(np.full((2, 8), np.nan, np.float32), "x")).wait().status.startswith("INVALID_ARGUMENT: image_features")
    of.close()
    assert Asked(of, requests(1)[0]).wait().status.startswith("UNAVAILABLE")


def test_closing_answers_everybody(made):
    of = made(CONFIG.with_(eos=()))
    asked = [Asked(of, request) for request in requests(20, tokens=300)]
    of.close()
    assert all(each.wait().status in ("", "UNAVAILABLE: lisa_engine: the server is stopping") for each in asked)


def test_pieces_add_up_to_the_text(made):
    of = made()
    for request in requests(4):
        pieces = Asked(of, Request(request.features, request.question, max_tokens=40, stream=True))
        pieces.wait()
        whole = Asked(of, Request(request.features, request.question, max_tokens=40)).wait()
        assert "".join(event.text for event in pieces.events) == whole.text == whole.text.strip()
        assert len(pieces.events) > 1 and [event.final for event in pieces.events].count(True) == 1


def verdict_engine(made, bias: float) -> module.Engine:
    from dataclasses import replace

    return made(CONFIG.with_(verdict=replace(VERDICT, scale=0.0, bias=bias), eos=()))


@pytest.mark.parametrize("tokens", [1, 2, 12])
def test_the_verdict_opens_the_answer(made, tokens):
    request = Request(picture(0), QUESTION, max_tokens=tokens, stream=True)
    yes = Asked(verdict_engine(made, 1.0), request)
    assert yes.wait().seg_count == 1 and yes.wait().tokens == tokens
    assert yes.wait().seg_probability == pytest.approx(1 / (1 + np.exp(-1)))
    first = yes.events[0]
    assert first.seg_count == 1 and first.text == "" and np.abs(first.seg_embeddings[0]).sum() > 0 and not first.seg_embeddings[1].any()
    no = Asked(verdict_engine(made, -1.0), request).wait()
    assert no.seg_count == 0 and not no.seg_embeddings.any() and no.seg_probability < 0.5 and no.tokens == tokens


def test_after_seg_stands_yes_and_after_no_never_seg(made):
    for bias, start in ((1.0, [VERDICT.seg, VERDICT.yes]), (-1.0, [VERDICT.no])):
        of = verdict_engine(made, bias)
        answers = []
        decode = of.prompter.decode
        of.prompter.decode = lambda ids, decode=decode, answers=answers: answers.append(list(ids)) or decode(ids)
        with torch.no_grad():
            of.runner.model.added_head.mul_(1000)  # [SEG] would win often
        Asked(of, Request(picture(0), QUESTION, max_tokens=30)).wait()
        assert answers[-1][: len(start)] == start and VERDICT.seg not in answers[-1][1:]


def test_the_seg_vector_is_of_the_position_that_predicts_it_and_slots_bound_the_count(made):
    of = made(CONFIG.with_(eos=()))
    with torch.no_grad():
        of.runner.model.added_head.copy_(of.runner.model.added_head * 100)
    request = Request(picture(4), QUESTION, max_tokens=40)
    ids = of.prompter.build(QUESTION, (), 5)
    answer = naive(of.runner.model, ids, request.features, 40)
    final = Asked(of, request).wait()
    assert answer.count(CONFIG.seg) > CONFIG.slots == final.seg_count
    with torch.inference_mode():
        row = torch.tensor(ids + answer)
        x = of.runner.model.embed(row.clamp(min=0))
        x[row == -1] = of.runner.model.project(torch.from_numpy(request.features))
        hidden = of.runner.model.forward_train(x.unsqueeze(0))[0, len(ids) + answer.index(CONFIG.seg) - 1]
        expected = of.runner.model.seg(hidden).numpy()
    assert np.allclose(final.seg_embeddings[0], expected, atol=1e-4)
    assert "[SEG]" not in final.text
