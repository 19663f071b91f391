"""How good is the verdict? Every cell of the test part through the running server, two at a time.

Labels: ELPV's probability of being defective; 0.5 or more counts as defective. Each answer is also checked against itself:
verdict, SCORE, MASK, defects, locations and the yes or no of the sentence may not contradict each other.
"""

from __future__ import annotations

import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from harness import Measure, Target, main, percentile, progress, table, write_csv
from sightline import NotInspected
from sightline.report import Report, parse
from sightline_ensemble.contract import LOCATIONS
from sightline_ensemble.lisa.guide import spoken
from sightline_training.data import Cell, cells
from sklearn.metrics import average_precision_score, roc_auc_score
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

CONCURRENCY = 2
RESAMPLES = 1000
COLUMNS = ("cells", "accuracy", "AUROC", "AP", "AUROC 1 or 0", "recall", "specificity")


@dataclass(frozen=True)
class Answer:
    """What the server said about a cell; `report` is None where it was not inspected, and `problems` then says why."""

    cell: Cell
    report: Report | None
    milliseconds: float
    problems: tuple[str, ...] = field(default=())


def inspect(server: InferenceServerClient, cell: Cell) -> Answer:
    """Every output as Triton returned it, not only what the client library needs."""
    image = InferInput("IMAGE", [1], "BYTES")
    image.set_data_from_numpy(np.array([cell.path.read_bytes()], object))
    begin = time.perf_counter()
    try:
        result = server.infer("inspect", [image], client_timeout=60)
        elapsed = 1e3 * (time.perf_counter() - begin)
        report = parse(result.as_numpy("REPORT")[0])
    except (InferenceServerException, NotInspected) as error:
        return Answer(cell, None, 1e3 * (time.perf_counter() - begin), (f"not inspected: {error}",))
    outputs = {name: result.as_numpy(name) for name in ("TEXT", "SCORE", "MASK")}
    return Answer(cell, report, elapsed, tuple(contradictions(report, outputs["TEXT"][0].decode(), outputs["SCORE"][0], outputs["MASK"])))


def contradictions(report: Report, text: str, score: np.float32, mask: np.ndarray) -> list[str]:
    """Where an answer contradicts itself, in words.

    Args:
        report: the parsed REPORT. text, score: the outputs TEXT and SCORE. mask: the output MASK, UINT8 [H, W].
    """
    opening = "".join(text.lower().replace(",", " ").replace(".", " ").split()[:1])
    rules = {
        "verdict and SCORE": report.anomaly == bool(score >= 0.5),
        "verdict and MASK": report.anomaly == bool(mask.any()),
        "verdict and defects": report.anomaly == bool(report.defects),
        "SCORE and the report's": abs(float(score) - report.score) < 1e-6,
        "TEXT and the report's": text == report.text,
        "MASK and the defects' union": mask.shape == report.mask.shape and bool((mask == report.mask).all()),
        "locations and the defects'": set(report.locations) == {defect.location for defect in report.defects},
        "location and mask": all(place(defect.mask) == defect.location for defect in report.defects),
        "verdict and the text's yes or no": opening == ("yes" if report.anomaly else "no"),
    }
    return [name for name, holds in rules.items() if not holds]


def place(mask: np.ndarray) -> str:
    """The third of the picture in which a mask's centroid lies, borders belonging to the lower one."""
    centre = [axis.mean() + 0.5 for axis in np.nonzero(mask)]
    row, column = (int(c > side / 3) + int(c > 2 * side / 3) for c, side in zip(centre, mask.shape, strict=True))
    return LOCATIONS[3 * row + column]


def inspect_all(target: Target, chosen: list[Cell]) -> list[Answer]:
    with InferenceServerClient(target.url) as server, ThreadPoolExecutor(CONCURRENCY) as pool, progress("test cells", len(chosen)) as step:

        def one(cell: Cell) -> Answer:
            answer = inspect(server, cell)
            step()
            return answer

        return list(pool.map(one, chosen))


def scores(answers: list[Answer]) -> dict[str, float]:
    """The figures of COLUMNS over answers that have a report."""
    defective = np.array([answer.cell.defective for answer in answers])
    probability = np.array([answer.cell.probability for answer in answers])
    score = np.array([answer.report.score for answer in answers if answer.report])
    verdict = score >= 0.5
    sure = (probability == 0) | (probability == 1)
    return dict(
        zip(
            COLUMNS,
            (
                len(answers), float((verdict == defective).mean()), float(roc_auc_score(defective, score)),
                float(average_precision_score(defective, score)), float(roc_auc_score(probability[sure] == 1, score[sure])),
                float(verdict[defective].mean()), float((~verdict[~defective]).mean()),
            ),
            strict=True,
        )
    )  # fmt: skip


def interval(answers: list[Answer], column: str) -> tuple[float, float]:
    """95 % interval of a figure by resampling the cells."""
    rng = np.random.default_rng(0)
    drawn = [scores([answers[i] for i in rng.integers(len(answers), size=len(answers))])[column] for _ in range(RESAMPLES)]
    return percentile(drawn, 2.5), percentile(drawn, 97.5)


def row(answer: Answer) -> dict[str, object]:
    cell, report = answer.cell, answer.report
    said: tuple[object, ...] = ("", "", "", 0, "")
    if report is not None:
        said = (report.verdict, report.score, "; ".join(report.locations), int(report.mask.sum()), report.text)
    return {
        "name": cell.name, "kind": cell.kind, "probability": round(cell.probability, 2), "defective": int(cell.defective),
        **dict(zip(("verdict", "score", "locations", "mask_pixels", "text"), said, strict=True)),
        "problems": "; ".join(answer.problems), "ms": round(answer.milliseconds, 1),
    }  # fmt: skip


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes quality.csv, one line a cell, and quality.md, one table."""
    answers = inspect_all(target, cells("test"))
    write_csv(out / "quality.csv", [row(answer) for answer in answers])
    for answer in answers:
        if answer.problems:
            print(f"{answer.cell.name}: {'; '.join(answer.problems)}")
    good = [answer for answer in answers if answer.report is not None]
    groups = {"all": good, **{kind: [a for a in good if a.cell.kind == kind] for kind in ("mono", "poly")}}
    figures = {name: scores(group) for name, group in groups.items()}
    rows = [{"cell type": name, **{key: f"{value:.4g}" for key, value in values.items()}} for name, values in figures.items()]
    (out / "quality.md").write_text(table(rows) + "\n")
    print(table(rows))
    return [*verdicts(good, figures), *consistency(answers)]


def verdicts(good: list[Answer], figures: dict[str, dict[str, float]]) -> list[Measure]:
    """Accuracy and the like, with the range that another draw of so many cells might give."""
    whole, n, found = figures["all"], len(good), []
    for column, name, bar in (("accuracy", "verdict accuracy", ">= 0.885"), ("AUROC", "image AUROC of SCORE", ">= 0.935")):
        found.append(Measure("quality", name, whole[column], "", n, bar))
        for end, value in zip(("low", "high"), interval(good, column), strict=True):
            found.append(Measure("quality", f"{name}, 95 % interval, {end}", value, "", n))
    names = {"AP": "average precision", "AUROC 1 or 0": "AUROC, labels 1 and 0 only", "recall": "recall", "specificity": "specificity"}
    bars = {"AUROC 1 or 0": ">= 0.965"}
    found += [Measure("quality", name, whole[column], "", n, bars.get(column, "")) for column, name in names.items()]
    for kind, column in itertools.product(("mono", "poly"), ("accuracy", "AUROC")):
        found.append(Measure("quality", f"{column}, {kind}", figures[kind][column], "", int(figures[kind]["cells"])))
    return found


def consistency(answers: list[Answer]) -> list[Measure]:
    good = [answer for answer in answers if answer.report is not None]
    anomalies = [answer.report for answer in good if answer.report and answer.report.anomaly]
    agree = [f"at the {spoken(report.locations)} of the image" in report.text for report in anomalies]
    found = [
        Measure("quality", "contradicting answers", sum(bool(answer.problems) for answer in good), "", len(good), "<= 0"),
        Measure("quality", "cells not inspected", len(answers) - len(good), "", len(answers), "<= 0"),
    ]
    if agree:
        share = 100 * float(np.mean(agree))
        found.append(Measure("quality", "sentences that name the places of the mask", share, "%", len(agree), ">= 100"))
    return found


if __name__ == "__main__":
    sys.exit(main({"quality": measure}))
