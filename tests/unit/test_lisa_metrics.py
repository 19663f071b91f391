"""What the engine counts, against what was asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from lisa_small import CONFIG, VERDICT, Asked, engine, picture
from sightline_ensemble.lisa.limits import Limits
from sightline_ensemble.lisa.metrics import METRICS, Meter
from sightline_ensemble.lisa.sequence import Request


@dataclass
class Fake:
    """Takes only what Triton's metric of this kind takes."""

    kind: str
    value: float = 0.0
    seen: list[float] = field(default_factory=list)

    def increment(self, value: float) -> None:
        assert self.kind == "COUNTER" and value > 0
        self.value += value

    def set(self, value: float) -> None:
        assert self.kind == "GAUGE"
        self.value = value

    def observe(self, value: float) -> None:
        assert self.kind == "HISTOGRAM" and value > 0
        self.seen.append(value)


@pytest.fixture
def fakes() -> dict[str, Fake]:
    return {metric.name: Fake(metric.kind) for metric in METRICS}


def test_the_numbers_are_those_of_the_requests(fakes):
    config = CONFIG.with_(eos=(), verdict=replace(VERDICT, scale=0.0, bias=1.0))
    of = engine(config, Limits(threads=1, cache_tokens=CONFIG.context), meter=Meter(lambda metric: fakes[metric.name]))
    asked = [Request(picture(i % 2), "is it good?", max_tokens=n) for i, n in enumerate((1, 9, 20))]
    for request in asked:
        Asked(of, request).wait()
    prompt = len(of.prompter.build("is it good?", (), 5))
    of.close()
    of.publish()
    assert fakes["generated_tokens"].value == 30 and fakes["prompt_tokens"].value == 3 * prompt
    assert len(fakes["first_token_seconds"].seen) == len(fakes["mask_seconds"].seen) == 3
    assert fakes["prefix_hit_tokens"].value == 16 * of.scheduler.pages.hits >= (prompt - 1) // 16 * 16
    assert fakes["running"].value == fakes["waiting"].value == fakes["cache_pages_used"].value == fakes["preemptions"].value == 0
    assert fakes["cache_pages"].value == of.scheduler.pages.count
    of.publish()
    assert fakes["generated_tokens"].value == 30 and len(fakes["mask_seconds"].seen) == 3


def test_a_full_cache_is_seen(fakes):
    of = engine(CONFIG.with_(eos=()), Limits(threads=1, cache_tokens=CONFIG.context), meter=Meter(lambda m: fakes[m.name]))
    asked = [Asked(of, Request(picture(i), "why?", max_tokens=150)) for i in range(6)]
    while not of.scheduler.preemptions:
        assert not all(each.done.is_set() for each in asked)
    of.publish()
    assert fakes["preemptions"].value and fakes["cache_pages_used"].value and fakes["running"].value and fakes["waiting"].value
    of.close()


def test_without_instruments_nothing_is_kept():
    of = engine(CONFIG)
    Asked(of, Request(picture(0), "why?", max_tokens=3)).wait()
    of.close()
    assert of.meter.numbers["generated_tokens"] and not of.meter.seconds["first_token_seconds"]
