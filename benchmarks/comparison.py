"""What does serving by the ensemble give over a plain script that does the same? One run, both in turn, the same pictures.

Each round: the script alone (the server idles), the ensemble with one client, with eight. The script's answers must be the ensemble's.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from harness import Measure, Target, main, percentile, progress, write_csv
from latency import spread
from plain import Plain
from sightline import Client
from sightline.report import Report
from sightline_training.data import Cell, cells

CELLS, MANY, ROUNDS, SHOTS = 48, 8, 3, 16
BOX = (0.0, 0.0, 300.0, 300.0)  # the whole cell: SAM cuts it out of its dark corners
PRODUCT = "comparison"
Timed = tuple[list[tuple[Any, float]], float]  # answers with their milliseconds, and the seconds for all of them


def timed(ask: Any, chosen: list[Cell], workers: int, step: Any) -> Timed:
    def one(cell: Cell) -> tuple[Any, float]:
        begin = time.perf_counter()
        answer = ask(cell)
        step()
        return answer, 1e3 * (time.perf_counter() - begin)

    with ThreadPoolExecutor(workers) as pool:
        begin = time.perf_counter()
        answers = list(pool.map(one, chosen))
        return answers, time.perf_counter() - begin


def same(script: dict[str, Any], report: Report) -> bool:
    """Verdict, places and sentence are equal and the masks overlap by 0.99 or more."""
    mask = script["MASK"].astype(bool)
    union = int((mask | report.mask).sum())
    overlap = int((mask & report.mask).sum()) / union if union else 1.0
    words = (script["verdict"], script["locations"], script["text"]) == (report.verdict, list(report.locations), report.text)
    return words and overlap >= 0.99


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes comparison.csv, a line for each way, round and picture."""
    chosen, normal = spread(cells("test"), CELLS), [c.path for c in cells("train") if c.probability == 0][:SHOTS]
    script = Plain(target.profile, [path.read_bytes() for path in normal], np.array(BOX, np.float32))
    with Client(target.url) as client:
        client.enroll(PRODUCT, normal, box=BOX)

        def inspect(cell: Cell) -> Report:
            return client.inspect(cell.path, product=PRODUCT)

        ways = {"script": (lambda cell: script(cell.path.read_bytes()), 1), "ensemble 1": (inspect, 1), f"ensemble {MANY}": (inspect, MANY)}
        found: dict[str, list[Timed]] = {name: [] for name in ways}
        with progress("comparison", CELLS * len(ways) * ROUNDS) as step:
            for ask, workers in ways.values():
                timed(ask, cells("val")[: 5 + workers], workers, lambda: None)  # warm
            for _ in range(ROUNDS):
                for name, (ask, workers) in ways.items():
                    found[name].append(timed(ask, chosen, workers, step))
        client.remove(PRODUCT)
    script.close()
    write_csv(
        out / "comparison.csv",
        [row(name, n, pair) for name, runs in found.items() for n, run in enumerate(runs) for pair in zip(chosen, run[0], strict=True)],
    )
    return measures(found)


def row(name: str, number: int, pair: tuple[Cell, tuple[Any, float]]) -> dict[str, object]:
    cell, (answer, milliseconds) = pair
    said = answer if isinstance(answer, dict) else {"verdict": answer.verdict, "score": answer.score, "text": answer.text}
    return {
        "way": name,
        "round": number,
        "name": cell.name,
        "ms": round(milliseconds, 1),
        **{k: said[k] for k in ("verdict", "score", "text")},
    }


def measures(found: dict[str, list[Timed]]) -> list[Measure]:
    times = {name: [ms for answers, _ in runs for _, ms in answers] for name, runs in found.items()}
    rate = {name: sum(len(answers) for answers, _ in runs) / sum(seconds for _, seconds in runs) for name, runs in found.items()}
    one, many, n = "ensemble 1", f"ensemble {MANY}", len(times["script"])
    equal = [
        same(a, b)
        for ours, theirs in zip(found["script"], found[one], strict=True)
        for (a, _), (b, _) in zip(ours[0], theirs[0], strict=True)
    ]
    of = {(name, share): percentile(values, share) for name, values in times.items() for share in (50, 99)}
    return [
        Measure("comparison", "answers of the script that are the ensemble's", 100 * sum(equal) / n, "%", n, ">= 98"),
        Measure("comparison", f"throughput, ensemble at concurrency {MANY} / script", rate[many] / rate["script"], "", n, ">= 1.8"),
        Measure("comparison", "throughput, ensemble at concurrency 1 / script", rate[one] / rate["script"], "", n),
        Measure("comparison", "p50, ensemble at concurrency 1 / script", of[one, 50] / of["script", 50], "", n, "<= 1.15"),
        Measure("comparison", "p99, ensemble at concurrency 1 / script", of[one, 99] / of["script", 99], "", n),
        Measure("comparison", f"p50, ensemble at concurrency {MANY} / script", of[many, 50] / of["script", 50], "", n),
        Measure("comparison", f"p99, ensemble at concurrency {MANY} / script", of[many, 99] / of["script", 99], "", n),
    ]


if __name__ == "__main__":
    sys.exit(main({"comparison": measure}))
