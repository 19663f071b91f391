"""What do eight clients get that one does not, and does anyone's answer change? Both in turn in one run on one server."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import Measure, Target, main, percentile, progress, write_csv
from latency import WARM_UP, spread
from sightline import Client
from sightline.report import Report
from sightline_training.data import Cell, cells

CELLS = 64
MANY = 8
ROUNDS = 2  # one, many, one, many: so that a slow minute of the machine does not fall on one of them alone
Answers = list[tuple[Report, float]]


def run(client: Client, chosen: list[Cell], workers: int) -> tuple[Answers, float]:
    """Each cell's report and milliseconds, and the seconds for all of them."""

    def one(cell: Cell) -> tuple[Report, float]:
        begin = time.perf_counter()
        report = client.inspect(cell.path)
        step()
        return report, 1e3 * (time.perf_counter() - begin)

    with ThreadPoolExecutor(workers) as pool, progress(f"concurrency {workers}", len(chosen)) as step:
        begin = time.perf_counter()
        answers = list(pool.map(one, chosen))
        return answers, time.perf_counter() - begin


def overlap(one: Report, other: Report) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = int((one.mask | other.mask).sum())
    return int((one.mask & other.mask).sum()) / union if union else 1.0


def compare(cell: Cell, alone: tuple[Report, float], among: tuple[Report, float]) -> dict[str, object]:
    (one, one_ms), (other, other_ms) = alone, among
    return {
        "name": cell.name, "alone_ms": round(one_ms, 1), "among_ms": round(other_ms, 1),
        "verdict_same": int(one.verdict == other.verdict), "locations_same": int(one.locations == other.locations),
        "mask_iou": round(overlap(one, other), 4), "score_difference": round(abs(one.score - other.score), 4),
        "text_same": int(one.text == other.text), "text": one.text, "other_text": "" if one.text == other.text else other.text,
    }  # fmt: skip


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes concurrency.csv: each cell asked alone against the same cell asked among others."""
    chosen = spread(cells("test"), CELLS)
    rows, alone_s, among_s = [], 0.0, 0.0
    with Client(target.url) as client:
        run(client, cells("val")[: WARM_UP + MANY], MANY)
        for _ in range(ROUNDS):
            alone, seconds = run(client, chosen, 1)
            among, others = run(client, chosen, MANY)
            alone_s, among_s = alone_s + seconds, among_s + others
            rows += [compare(*triple) for triple in zip(chosen, alone, among, strict=True)]
    write_csv(out / "concurrency.csv", rows)
    n = len(rows)
    name = f"at concurrency {MANY}"
    return [
        Measure("concurrency", "inspections per second at concurrency 1", n / alone_s, "1/s", n),
        Measure("concurrency", f"inspections per second {name}", n / among_s, "1/s", n),
        Measure("concurrency", f"throughput {name} / at 1", alone_s / among_s, "", n, ">= 1.5"),
        Measure("concurrency", f"one inspection {name}, p50", percentile([row["among_ms"] for row in rows], 50) / 1e3, "s", n),
        Measure("concurrency", f"one inspection {name}, p95", percentile([row["among_ms"] for row in rows], 95) / 1e3, "s", n),
        Measure("concurrency", "verdicts that differ", n - sum(row["verdict_same"] for row in rows), "", n, "<= 0"),
        Measure("concurrency", "locations that differ", n - sum(row["locations_same"] for row in rows), "", n, "<= 0"),
        Measure("concurrency", "smallest IoU of the two masks", min(row["mask_iou"] for row in rows), "", n, ">= 0.99"),
        Measure("concurrency", "identical sentences", 100 * sum(row["text_same"] for row in rows) / n, "%", n, ">= 95"),
        Measure("concurrency", "largest difference of SCORE", max(row["score_difference"] for row in rows), "", n),
    ]


if __name__ == "__main__":
    sys.exit(main({"concurrency": measure}))
