"""What does a second question about the same picture cost, and do later answers stay with the first verdict?

A server of its own with the response cache on, as `sightline-serve` has it. For each of the cells a dialogue of four turns: time to
the first word of every turn, and every answer's verdict, yes or no, mask and places against those of the first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from harness import REPOSITORY, Measure, Target, main, percentile, progress, write_csv
from quality import contradictions
from sightline import Client
from sightline.report import Complete, Report
from sightline_ensemble.contract import DEFAULT_PROMPT
from sightline_ensemble.serve.running import running
from sightline_training.data import Cell, cells

CELLS = 10  # of each verdict
WARM_UP = 3
QUESTIONS = (DEFAULT_PROMPT, "Where exactly is it?", "What could have caused it?", "Are you sure that this cell is not good?")


@dataclass(frozen=True)
class Turn:
    """One answered question. `first_ms`: until its first word."""

    report: Report
    first_ms: float
    complete_ms: float


def ask(client: Client, cell: Cell, question: str, history: list[dict[str, str]]) -> Turn:
    begin, first = time.perf_counter(), 0.0
    for event in client.stream(cell.path, prompt=question, history=history or None):
        complete = isinstance(event, Complete)
        if not first and (complete or event.text):
            first = time.perf_counter() - begin
        if complete:
            return Turn(event.report, 1e3 * first, 1e3 * (time.perf_counter() - begin))
    raise AssertionError("the client raises where a stream ends without its report")


def converse(client: Client, cell: Cell) -> list[Turn]:
    turns: list[Turn] = []
    history: list[dict[str, str]] = []
    for question in QUESTIONS:
        turns.append(ask(client, cell, question, history))
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": turns[-1].report.text}]
    return turns


def problems(turns: list[Turn]) -> list[list[str]]:
    """For each turn: where it contradicts itself, or the first."""
    found, first = [], turns[0].report
    for turn in turns:
        report = turn.report
        said = contradictions(report, report.text, report.score, report.mask)
        same = {
            "verdict of the first turn": report.verdict == first.verdict,
            "score of the first turn": report.score == first.score,
            "mask of the first turn": bool((report.mask == first.mask).all()),
            "places of the first turn": report.locations == first.locations,
        }
        found.append(said + [name for name, holds in same.items() if not holds])
    return found


def measure(_: Target, out: Path) -> list[Measure]:
    """Writes dialogue.csv, one line a turn. The target is left alone: its cache is off."""
    chosen = [*[c for c in cells("test") if c.probability == 1][:CELLS], *[c for c in cells("test") if c.probability == 0][:CELLS]]
    rows = []
    with tempfile.TemporaryDirectory() as products:
        with running("--repository", str(REPOSITORY), "--profile", "tiny", "--products", products) as server, Client(server.grpc) as client:
            for cell in cells("val")[:WARM_UP]:
                converse(client, cell)
            with progress("dialogues", len(chosen)) as step:
                for cell in chosen:
                    turns = converse(client, cell)
                    for number, (turn, wrong) in enumerate(zip(turns, problems(turns), strict=True), 1):
                        rows.append({
                            "name": cell.name, "turn": number, "question": QUESTIONS[number - 1], "verdict": turn.report.verdict,
                            "first_word_ms": round(turn.first_ms, 1), "complete_ms": round(turn.complete_ms, 1),
                            "text": turn.report.text, "problems": "; ".join(wrong),
                        })  # fmt: skip
                    step()
    write_csv(out / "dialogue.csv", rows)
    return summary(rows)


def summary(rows: list[dict[str, object]]) -> list[Measure]:
    """A good cell's answer comes in one piece, so words are timed on anomalies and whole answers on all."""
    shown = {number: [row for row in rows if row["turn"] == number and row["verdict"] == "anomaly"] for number in (1, 2, 3, 4)}
    first = {number: percentile([row["first_word_ms"] for row in group], 50) for number, group in shown.items()}
    whole = {number: percentile([row["complete_ms"] for row in rows if row["turn"] == number], 50) for number in (1, 2)}
    n, wrong = len(shown[2]), [f"{row['name']} turn {row['turn']}: {row['problems']}" for row in rows if row["problems"]]
    for line in wrong:
        print(line)
    return [
        Measure("dialogue", "first word of the first answer, p50", first[1] / 1e3, "s", n),
        Measure("dialogue", "first word of the second answer / of the first, p50", first[2] / first[1], "", n, "<= 0.4"),
        Measure("dialogue", "first word of the fourth answer / of the first, p50", first[4] / first[1], "", n),
        Measure("dialogue", "second answer complete / first, p50", whole[2] / whole[1], "", len(rows) // 4),
        Measure("dialogue", "turns that contradict themselves or the first", len(wrong), "", len(rows), "<= 0"),
    ]


if __name__ == "__main__":
    sys.exit(main({"dialogue": measure}))
