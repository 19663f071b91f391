"""The checks that the benchmarks make of an answer, on answers made here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sightline.report import Report, parse
from sightline_ensemble.regions import rle
from sightline_ensemble.serve.running import Running

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import harness  # noqa: E402
import memory  # noqa: E402
import quality  # noqa: E402

SIDE = 30
DEFECT = np.zeros((SIDE, SIDE), np.uint8)
DEFECT[2:6, 3:8] = 1


def answer(anomaly: bool, text: str, location: str = "top left") -> Report:
    runs = rle(DEFECT, 0, 0, SIDE, SIDE)
    defects = [{"box": [3, 2, 8, 6], "area": 20, "score": 0.9, "location": location, "rle": runs}] if anomaly else []
    content = {
        "schema": "sightline/1", "verdict": "anomaly" if anomaly else "normal", "score": 0.9 if anomaly else 0.1, "text": text,
        "locations": [location] if anomaly else [], "defects": defects, "part": None, "experts": [], "size": [SIDE, SIDE], "prompt": "?",
        "tokens": 3, "profile": "tiny", "artefacts": {}, "timings_ms": {}, "time_to_mask_ms": 1.0,
    }  # fmt: skip
    return parse(json.dumps(content))


def found(report: Report, text: str | None = None, score: float | None = None, mask: np.ndarray | None = None) -> list[str]:
    """Contradictions of a report with outputs that agree with it, but for those given."""
    return quality.contradictions(
        report,
        report.text if text is None else text,
        np.float32(report.score if score is None else score),
        report.mask if mask is None else mask,
    )


def test_agreeing_answers_have_no_contradiction() -> None:
    assert found(answer(True, "Yes, there is a crack at the top left of the image.")) == []
    assert found(answer(False, "No, there is no anomaly in the image.")) == []


@pytest.mark.parametrize(
    ("problem", "found_there"),
    [
        ("verdict and the text's yes or no", found(answer(True, "No, there is no anomaly in the image."))),
        ("verdict and the text's yes or no", found(answer(False, "Perhaps, it is hard to say."))),
        ("verdict and SCORE", found(answer(True, "Yes, a crack."), score=0.2)),
        ("verdict and MASK", found(answer(True, "Yes, a crack."), mask=np.zeros_like(DEFECT))),
        ("MASK and the defects' union", found(answer(True, "Yes, a crack."), mask=np.ones_like(DEFECT))),
        ("TEXT and the report's", found(answer(True, "Yes, a crack."), text="Yes, a cra")),
        ("location and mask", found(answer(True, "Yes, a crack.", location="bottom right"))),
    ],
)
def test_contradictions_are_named(problem: str, found_there: list[str]) -> None:
    assert problem in found_there


def test_bars_are_held_by_the_value_not_by_its_print() -> None:
    assert harness.Measure("a", "b", 1.00004, "s", 1, "<= 1.0").met == "no"
    assert harness.Measure("a", "b", 0.6, "", 1, "< 0.6").met == "no"
    assert harness.Measure("a", "b", 0.0, "", 1, "<= 0").met == "yes"


def test_a_later_run_replaces_its_own_rows(tmp_path: Path) -> None:
    harness.summarise([harness.Measure("one", "x", 1.0, "s", 1), harness.Measure("two", "y", 2.0, "s", 1)], "tiny", 0.0, tmp_path)
    harness.summarise([harness.Measure("one", "x", 3.0, "s", 1)], "tiny", 0.0, tmp_path)
    assert {row["measure"]: row["value"] for row in harness.read_csv(tmp_path / "summary.csv")} == {"y": "2", "x": "3"}


@pytest.mark.parametrize("said", [["ready"], ["ready", "restarting: report_0_0: the step's process died", "ready"]])
def test_what_a_restarted_server_said_is_kept(said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def started(*_: str) -> Iterator[Running]:
        yield Running(SimpleNamespace(pid=1), lines=said)

    monkeypatch.setattr(harness, "running", started)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    with pytest.raises(RuntimeError, match="gone"), harness.serving("soak", "tiny"):
        raise RuntimeError("gone")
    kept = tmp_path / "build" / "soak-server.log"
    assert kept.read_text().splitlines() == said if len(said) > 1 else not kept.exists()


def test_resident_memory_of_this_process_is_seen() -> None:
    assert memory.resident(os.getpid()) > 10e6
    assert memory.family(os.getpid())[0] == os.getpid()
