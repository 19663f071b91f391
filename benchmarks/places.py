"""Do the words for a place fit the defect? Simulated defects, whose place is known, on good test cells that no weight has seen.

Each has one defect. The hint is the few-shot expert's, of a product of 16 normal training cells; the mask is the answer's. The true
word is that of the centroid of the true mask; a centroid within 4 % of the picture of a border between two places counts for both.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from harness import Measure, Target, main, progress, write_csv
from sightline import Client
from sightline_ensemble.contract import LOCATIONS
from sightline_ensemble.regions import components, location
from sightline_training.data import cells, picture
from sightline_training.simulate import KINDS, simulate

CELLS, SHOTS = 120, 16
BORDER = 0.04
SEED = 20261121
PLACES = re.compile("|".join(sorted(LOCATIONS, key=len, reverse=True)))


@dataclass(frozen=True)
class Simulated:
    """A picture uint8 [H, W] with one defect: its kind, its mask bool [H, W], the words for its place."""

    kind: str
    cell: str  # mono or poly
    pixels: np.ndarray
    mask: np.ndarray

    @property
    def words(self) -> set[str]:
        rows, columns = np.nonzero(self.mask)
        height, width = self.mask.shape
        moves = (-BORDER, 0, BORDER)
        return {
            location(columns.mean() + 0.5 + dx * width, rows.mean() + 0.5 + dy * height, width, height) for dx, dy in product(moves, moves)
        }


def simulated(count: int) -> list[Simulated]:
    rng, found = np.random.default_rng(SEED), []
    good = [cell for cell in cells("test") if cell.probability == 0]
    while len(found) < count:
        cell = good[len(found) * len(good) // count]
        sample = simulate(picture(cell), rng)
        mask = np.any(list(sample.masks.values()), axis=0)
        if len(sample.masks) == 1 and len(components(mask.astype(np.uint8))[1]) == 1:
            found.append(Simulated(next(iter(sample.masks)), cell.kind, sample.pixels, mask))
    return found


def row(one: Simulated, report: object) -> dict[str, object]:
    """What was said about one, and whether it fits."""
    told, (expert,) = report.locations, report.experts
    hinted, truth = PLACES.findall(expert.text), one.words
    inter, union = np.logical_and(one.mask, report.mask).sum(), np.logical_or(one.mask, report.mask).sum()
    return {
        "kind": one.kind, "cell": one.cell, "area": int(one.mask.sum()), "truth": "/".join(sorted(truth)), "verdict": report.verdict,
        "score": report.score, "expert": expert.score, "hint": "; ".join(hinted), "hint_fits": int(bool(hinted) and hinted[0] in truth),
        "places": "; ".join(told), "place_fits": int(bool(told) and told[0] in truth), "iou": round(float(inter / union), 4),
        "text": report.text, "sentence_fits": int(bool(told) and any(f"at the {word}" in report.text for word in truth)),
    }  # fmt: skip


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes places.csv, one line a simulated defect."""
    chosen, rows = simulated(CELLS), []
    normal = {kind: [c.path for c in cells("train") if c.kind == kind and c.probability == 0][:SHOTS] for kind in ("mono", "poly")}
    with Client(target.url) as client:
        try:
            for kind, pictures in normal.items():
                client.enroll(f"places-{kind}", pictures)
            with progress("simulated defects", len(chosen)) as step:
                for one in chosen:
                    rows.append(row(one, client.inspect(one.pixels, product=f"places-{one.cell}")))
                    step()
        finally:
            for kind in normal:
                client.remove(f"places-{kind}")
    write_csv(out / "places.csv", rows)
    hinted, found = [r for r in rows if r["hint"]], [r for r in rows if r["verdict"] == "anomaly"]
    measures = [
        Measure("places", "simulated defects with a hint of a place", 100 * len(hinted) / len(rows), "%", len(rows)),
        Measure("places", "hints whose first place is the defect's", 100 * mean(hinted, "hint_fits"), "%", len(hinted), ">= 95"),
        Measure("places", "simulated defects found", 100 * len(found) / len(rows), "%", len(rows)),
        Measure("places", "answers whose first place is the defect's", 100 * mean(found, "place_fits"), "%", len(found)),
        Measure("places", "sentences that name the defect's place", 100 * mean(found, "sentence_fits"), "%", len(found)),
    ]
    for kind in KINDS:
        own = [r for r in found if r["kind"] == kind]
        measures.append(Measure("places", f"IoU of mask and defect, {kind}", mean(own, "iou"), "", len(own)))
    return [*measures, Measure("places", "IoU of mask and defect", mean(found, "iou"), "", len(found))]


def mean(rows: list[dict[str, object]], column: str) -> float:
    return float(np.mean([float(str(r[column])) for r in rows])) if rows else float("nan")


if __name__ == "__main__":
    sys.exit(main({"places": measure}))
