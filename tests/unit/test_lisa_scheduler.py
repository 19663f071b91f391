"""Whose turn it is, counted in steps: nothing is computed here."""

from __future__ import annotations

import numpy as np
import pytest
from sightline_ensemble.lisa.cache import BLOCK, Pages
from sightline_ensemble.lisa.scheduler import Decode, Prefill, Scheduler
from sightline_ensemble.lisa.sequence import Request, Sequence

CHUNK = 32


def sequence(prompt: int, first: int = 0, admitted: int = -1) -> Sequence:
    """`first`: its first token; prompts with the same share their pages. `admitted`: the ticket's number."""
    request = Request(np.zeros((0, 8), np.float32), "", ticket=(admitted, 0))
    return Sequence(request, lambda event: None, [first, *range(1, prompt)], prompt, 512, b"", 0)


def scheduler(pages: int = 200, running: int = 16) -> Scheduler:
    return Scheduler(Pages(pages), running, CHUNK)


def step(of: Scheduler) -> Prefill | Decode | None:
    """One step, whose sequences get a token where theirs is known."""
    found = of.schedule()
    for ready in of.computed(found) if found else []:
        ready.ids.append(7)
    return found


def steps(of: Scheduler, count: int) -> list[Prefill | Decode | None]:
    return [step(of) for _ in range(count)]


def test_a_long_prompt_stands_before_a_token_of_the_others_once():
    of, short, long = scheduler(), sequence(5), sequence(10 * CHUNK, 1)
    of.add(short)
    steps(of, 2)
    of.add(long)
    before = len(short.answer)
    found = steps(of, 20)
    assert [type(each) for each in found] == [Prefill, Decode] * 10
    assert len(short.answer) - before == 10 and [each.count for each in found[::2]] == [CHUNK] * 10


@pytest.mark.parametrize("longs", [1, 4])
def test_a_short_prompt_that_comes_amid_a_long_one_waits_for_one_chunk(longs):
    of = scheduler()
    for i in range(longs):
        of.add(sequence(10 * CHUNK, i))
    steps(of, 3)
    of.add(short := sequence(5, 90))
    found = steps(of, 2)
    assert short.answer and found[0].sequences == [short]
    of.add(late := sequence(5, 91))
    steps(of, 4)
    assert late.answer


def test_a_long_prompt_gets_every_other_chunk_however_many_short_ones_come():
    of, long = scheduler(), sequence(5 * CHUNK, 1)
    of.add(long)
    chunks = []
    for i in range(40):
        of.add(sequence(5, 10 + i))
        found = step(of)
        chunks += [found.sequence is long] if isinstance(found, Prefill) else []
        if long.answer:
            break
    assert long.answer and chunks == [True, False] * 4 + [True]


def test_who_was_admitted_first_goes_first_but_not_before_who_has_begun():
    of, begun = scheduler(), sequence(3 * CHUNK, 1, admitted=9)
    of.add(begun)
    steps(of, 1)
    of.add(nobodys := sequence(5, 2))
    of.add(look := sequence(5, 3, admitted=5))
    of.add(sentence := sequence(5, 4, admitted=3))
    of.add(later := sequence(5, 5, admitted=7))
    of.add(other := sequence(5, 6))
    assert list(of.waiting) == [begun, nobodys, sentence, look, later, other]


def test_a_prefill_is_alone_and_alone_chunks_follow_each_other():
    of = scheduler()
    of.add(long := sequence(3 * CHUNK, 1))
    assert [each.sequences for each in steps(of, 3)] == [[long]] * 3 and long.answer


def test_places_bound_who_runs():
    of = scheduler(running=2)
    for i in range(4):
        of.add(sequence(5, i))
    steps(of, 9)
    assert len(of.running) == 2 and len(of.waiting) == 2


def test_when_pages_run_out_a_waiting_prompt_gives_its_own_before_an_answer_does():
    of = scheduler(pages=8)
    of.add(answering := sequence(2 * BLOCK - 1))
    steps(of, 2)
    of.add(sequence(6 * BLOCK - 4, 1))
    while not of.chunked:
        step(of)
    while len(answering.ids) <= 3 * BLOCK:
        step(of)
    assert of.preemptions == 0 and answering in of.running


def test_when_pages_run_out_the_newest_answer_waits():
    of = scheduler(pages=6)
    older, newer = sequence(2 * BLOCK, 1), sequence(2 * BLOCK, 2)
    of.add(older)
    of.add(newer)
    while of.preemptions == 0:
        step(of)
    assert newer in of.waiting and older in of.running and not newer.table
    of.remove(older)
    while newer not in of.running:
        step(of)


def test_prompts_that_hold_each_others_pages_do_not_block_each_other():
    """A preempted answer goes before a prompt that is half computed; alone they fit, together they do not."""
    of = scheduler(pages=10)
    of.add(half := sequence(5 * BLOCK, 1))
    step(of)
    of.waiting.appendleft(preempted := sequence(7 * BLOCK, 2))
    assert half.table and step(of) is not None
    while not preempted.answer:
        assert step(of) is not None
    of.remove(preempted)
    while not half.answer:
        assert step(of) is not None
    of.remove(half)
    assert len(of.pages.free) == 10 and step(of) is None
