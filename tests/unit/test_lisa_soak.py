"""Thousands of requests of which most never end well: pages come back within a step, and nothing is left behind."""

from __future__ import annotations

import gc
import threading
import time

import psutil
import pytest
import torch
from lisa_small import CONFIG, Asked, engine, picture
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.limits import Limits
from sightline_ensemble.lisa.sequence import Request

ROUNDS, STREAMS = 1000, 50


class Crowd:
    """An engine whose steps cost nothing, and requests that their clients leave."""

    def __init__(self) -> None:
        self.gone: set[int] = set()
        limits = Limits(threads=1, running=16, cache_tokens=1600, chunk=64)
        self.of: Engine = engine(CONFIG.with_(eos=()), limits, lambda ticket: "cancelled" if ticket[0] in self.gone else "live")
        self.of.runner.run = lambda step: torch.zeros(len(step.sequences), CONFIG.hidden_size)
        self.pictures = [picture(i) for i in range(4)]

    def round(self, number: int) -> list[str]:
        """Fifty streams: half of them cancelled, a quarter timed out, the others of 1 token beside 512; their statuses."""
        asked, started = [], time.monotonic_ns()
        for i in range(STREAMS):
            token = number * STREAMS + i + 1
            deadline, tokens = 0, 512
            if i % 4 == 1:
                deadline = started + (i % 3) * 3 * 10**6
            elif i % 4 == 3:
                tokens = 1 if i > 3 or number % 100 else 512
            asked.append(Asked(self.of, Request(self.pictures[i % 4], "?" * (i % 7), (), tokens, (token, deadline), stream=True)))
        while not asked[12].events:  # by then a dozen of them are answering
            time.sleep(0.0002)
        self.gone |= {number * STREAMS + i + 1 for i in range(0, STREAMS, 2)}
        found = [each.wait().status for each in asked]
        self.gone.clear()
        return found

    def settled(self) -> bool:
        """Nobody is in the engine, and every page is free."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            pages = self.of.scheduler.pages
            if not self.of.live and not self.of.scheduler.all() and len(pages.free) == pages.count and not any(pages.references):
                return True
        return False


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


@pytest.mark.alone
def test_a_thousand_rounds_of_lost_requests_leave_nothing_behind():
    crowd = Crowd()
    for number in range(ROUNDS):
        if number == 100:
            before, objects = resident(), len(gc.get_objects())
        statuses = crowd.round(number)
        assert all(status.startswith("CANCELLED") for status in statuses[0::2])
        assert all(status.startswith("UNAVAILABLE: timeout") for status in statuses[1::4])
        assert not any(statuses[3::4])
        assert crowd.settled(), f"round {number} left something"
    assert resident() - before < 8 * 2**20 and abs(len(gc.get_objects()) - objects) < 2000
    crowd.of.close()


@pytest.mark.parametrize("state", ["cancelled", "expired"])
def test_pages_come_back_within_one_step(state):
    """The step after the client left, theirs are free already: nothing was computed for them."""
    gone, held = threading.Event(), []
    limits = Limits(threads=1, cache_tokens=2048)
    of = engine(CONFIG.with_(eos=()), limits, lambda ticket: state if gone.is_set() and 0 < ticket[0] <= 5 else "live")
    run, tables = of.runner.run, {}

    def watched(step):
        for sequence in of.scheduler.all():
            tables[sequence.request.ticket[0]] = list(sequence.table)
        if gone.is_set():
            held.append([s.request.ticket[0] for s in of.scheduler.all() if s.request.ticket[0] <= 5 or s not in of.live])
        elif len(step.sequences) == 10:
            gone.set()
        return run(step)

    of.runner.run = watched
    asked = [Asked(of, Request(picture(i), "?", (), 60, (i, 0), stream=True)) for i in range(1, 11)]
    finals = [each.wait() for each in asked]
    assert all(final.status for final in finals[:5]) and not any(final.status for final in finals[5:])
    assert held and not any(held) and all(tables[i] for i in range(1, 6))
    of.close()
    assert len(of.scheduler.pages.free) == of.scheduler.pages.count
