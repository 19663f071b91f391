"""How long does one inspection take, when is its mask known, and where does the time go? One request at a time."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness import Measure, Target, main, percentile, progress, table, write_csv
from sightline import Client, Verdict
from sightline.report import Complete, Report
from sightline_training.data import Cell, cells

WARM_UP = 5
UNARY = 80  # cells for the time of one inspection with its sentence
STREAMED = 40  # defective cells for the time to the mask


def spread(chosen: list[Cell], count: int) -> list[Cell]:
    """`count` cells evenly over the list, so that both cell types and many modules are among them."""
    return [chosen[i * len(chosen) // count] for i in range(count)]


def inspections(client: Client) -> list[dict[str, object]]:
    """A line for each inspection: the client's time, the server's, and each step's."""
    rows = []
    with progress("inspect", UNARY) as step:
        for cell in spread(cells("test"), UNARY):
            begin = time.perf_counter()
            report = client.inspect(cell.path)
            elapsed = 1e3 * (time.perf_counter() - begin)
            rows.append(
                {"name": cell.name, "verdict": report.verdict, "tokens": report.tokens, "client_ms": round(elapsed, 2), **steps(report)}
            )
            step()
    return rows


def steps(report: Report) -> dict[str, float]:
    return {f"{name}_ms": value for name, value in report.timings_ms.items()}


def streams(client: Client) -> list[dict[str, object]]:
    """A line for each streamed inspection of a defective cell: when the verdict and its mask came, and when all was said."""
    rows = []
    defective = [cell for cell in cells("test") if cell.defective]
    with progress("inspect_stream", STREAMED) as step:
        for cell in spread(defective, STREAMED):
            begin, first, last = time.perf_counter(), 0.0, 0.0
            for event in client.stream(cell.path):
                if isinstance(event, Verdict):
                    first = time.perf_counter() - begin
                elif isinstance(event, Complete):
                    last = time.perf_counter() - begin
                    report = event.report
            row = {"name": cell.name, "verdict": report.verdict, "tokens": report.tokens, "mask_ms": round(1e3 * first, 2)}
            rows.append(row | {"complete_ms": round(1e3 * last, 2), "share": round(first / last, 4)})
            step()
    return rows


def step_table(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Median and share of each step; the shares are of the client's time, so that what no step accounts for shows too."""
    names = [name.removesuffix("_ms") for name in rows[0] if name.endswith("_ms") and name not in ("client_ms", "total_ms")]
    client = sum(row["client_ms"] for row in rows)
    lines = []
    for name in (*names, "total", "client"):
        values = [row.get(f"{name}_ms", 0.0) for row in rows]
        middle, share = percentile(values, 50), 100 * sum(values) / client
        lines.append(
            {"step": name, "p50_ms": f"{middle:.1f}", "mean_ms": f"{sum(values) / len(values):.1f}", "share_percent": f"{share:.1f}"}
        )
    return lines


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes latency.csv, stream.csv, steps.csv."""
    with Client(target.url) as client:
        for cell in cells("val")[:WARM_UP]:
            client.inspect(cell.path)
        whole, streamed = inspections(client), streams(client)
    lines = step_table(whole)
    for name, rows in (("latency", whole), ("stream", streamed), ("steps", lines)):
        write_csv(out / f"{name}.csv", rows)
    print(table(lines))
    return [*whole_times(whole), *mask_times(streamed, percentile([row["client_ms"] for row in whole], 50))]


def whole_times(rows: list[dict[str, object]]) -> list[Measure]:
    """One inspection with its sentence, and whether its steps account for it."""
    client = [row["client_ms"] for row in rows]
    sums = [sum(value for key, value in row.items() if key.endswith("_ms") and key not in ("client_ms", "total_ms")) for row in rows]
    gaps = [100 * abs(1 - total / whole) for total, whole in zip(sums, client, strict=True)]
    n = len(rows)
    return [
        Measure("latency", "one inspection with its sentence, p50", percentile(client, 50) / 1e3, "s", n, "<= 1.0"),
        Measure("latency", "one inspection with its sentence, p95", percentile(client, 95) / 1e3, "s", n),
        Measure("latency", "tokens of a sentence, p50", percentile([row["tokens"] for row in rows], 50), "", n),
        Measure("latency", "sum of the steps and the client's time differ by, p50", percentile(gaps, 50), "%", n, "<= 10"),
        Measure("latency", "sum of the steps and the client's time differ by, p95", percentile(gaps, 95), "%", n),
    ]


def mask_times(rows: list[dict[str, object]], whole_ms: float) -> list[Measure]:
    """Over the cells found defective: only they have a mask to wait for."""
    shown = [row for row in rows if row["verdict"] == "anomaly"]
    mask, n = percentile([row["mask_ms"] for row in shown], 50), len(shown)
    share = percentile([row["share"] for row in shown], 50)
    return [
        Measure("latency", "time to mask, streamed, p50", mask / 1e3, "s", n),
        Measure("latency", "time to mask / the same answer complete, p50", share, "", n, "< 0.6"),
        Measure("latency", "time to mask, p50 / one inspection, p50", mask / whole_ms, "", n, "< 0.6"),
    ]


if __name__ == "__main__":
    sys.exit(main({"latency": measure}))
