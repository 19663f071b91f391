"""What the benchmarks share: a server of their own, this machine in words, results as CSV and Markdown."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sightline_ensemble.serve.running import running

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT / "model_repository"
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Target:
    """The server that is measured. `process`, `health`: the supervisor's id and port; none of somebody else's (`--url`)."""

    url: str
    profile: str
    process: int
    health: str = ""


@dataclass(frozen=True)
class Measure:
    """One figure of the summary. `bar`: what it is held to, for instance "<= 1.0"; empty where it only informs."""

    benchmark: str
    name: str
    value: float
    unit: str
    samples: int
    bar: str = ""

    @property
    def met(self) -> str:
        """yes, no, or nothing where there is no bar."""
        if not self.bar:
            return ""
        relation, limit = self.bar.split()
        holds = {"<=": self.value <= float(limit), "<": self.value < float(limit), ">=": self.value >= float(limit)}
        return "yes" if holds[relation] else "no"

    @property
    def text(self) -> str:
        """The value as it is printed everywhere: three or four digits, no more than were measured."""
        return f"{self.value:.0f}" if self.unit == "" and float(self.value).is_integer() else f"{self.value:.4g}"


Benchmark = Callable[[Target, Path], list[Measure]]
"""Measures one server and writes its details as CSV into a folder."""


@contextmanager
def serving(name: str, profile: str, url: str | None = None) -> Iterator[Target]:
    """A server of one's own on free ports with no products, stopped at the end; or the one that listens at `url`.

    Args:
        name: of what is measured, for `keep_lines`.
    """
    if url:
        yield Target(url, profile, 0)
        return
    with tempfile.TemporaryDirectory() as products:
        flags = ("--repository", str(REPOSITORY), "--profile", profile, "--products", products)
        with running(*flags, "--cache-bytes", "0") as server:  # pictures come again and again here: each one must be computed
            try:
                yield Target(server.grpc, profile, server.process.pid, server.health)
            finally:
                keep_lines(name, server.lines)


def keep_lines(name: str, lines: Sequence[str]) -> None:
    """Where the server was restarted, all it said goes to build/<name>-server.log: why it ended stands there or nowhere."""
    if not (restarts := [line for line in lines if "restarting: " in line]):
        return
    path = ROOT / "build" / f"{name}-server.log"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    print(*restarts, f"all that the server said: {path.relative_to(ROOT)}", sep="\n")


def main(benchmarks: dict[str, Benchmark], arguments: Sequence[str] | None = None) -> int:
    """Runs benchmarks on one server and writes `summary.csv` and `summary.md`; 1 where a bar is missed."""
    top = argparse.ArgumentParser(description=f"Measures a running server: {', '.join(benchmarks)}.")
    top.add_argument("--url", metavar="HOST:PORT", help="gRPC address of a running server (default: one of our own)")
    top.add_argument("--profile", default="tiny", help="artefacts to serve (default: %(default)s)")
    top.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results (default: benchmarks/results)")
    chosen = top.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    measures: list[Measure] = []
    with serving("-".join(benchmarks), chosen.profile, chosen.url) as target:
        for name, benchmark in benchmarks.items():
            Console().rule(name)
            load = os.getloadavg()[0]
            found = benchmark(target, chosen.out)
            measures += found
            summarise(found, chosen.profile, load, chosen.out)
    missed = [measure.name for measure in measures if measure.met == "no"]
    Console().print(table([_row(measure) for measure in measures]), markup=False, highlight=False, soft_wrap=True)
    if missed:
        print(f"missed: {', '.join(missed)}")
    return 1 if missed else 0


def summarise(measures: list[Measure], profile: str, load: float, folder: Path) -> None:
    """Puts the measures into `summary.csv`, in place of older ones of the same benchmarks, and renders `summary.md`."""
    path = folder / "summary.csv"
    fresh = {measure.benchmark for measure in measures}
    rows = [row for row in read_csv(path) if row["benchmark"] not in fresh] if path.exists() else []
    when = {"profile": profile, "date": datetime.now(UTC).date().isoformat(), "machine": machine(), "load": f"{load:.1f}"}
    rows += [_row(measure) | when for measure in measures]
    write_csv(path, rows)
    lines = ["# Measured results", ""]
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        own = [row for row in rows if row["benchmark"] == name]
        first = own[0]
        shown = [{key: row[key] for key in ("measure", "value", "unit", "samples", "bar", "met")} for row in own]
        place = f"Profile {first['profile']}, {first['date']}, {first['machine']}; load before the run {first['load']}."
        lines += [f"## {name}", "", place, "", table(shown), ""]
    (folder / "summary.md").write_text("\n".join(lines))


def _row(measure: Measure) -> dict[str, str]:
    row = {key: str(value) for key, value in asdict(measure).items()}
    row["measure"] = row.pop("name")
    names = ("benchmark", "measure", "value", "unit", "samples", "bar")
    return {name: row[name] for name in names} | {"value": measure.text, "met": measure.met}


def machine() -> str:
    """Processor, cores, memory and Python of this machine."""
    words = Path("/proc/cpuinfo").read_text().split("\n")
    processor = next((line.split(":", 1)[1].strip() for line in words if line.startswith("model name")), platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(np.asarray(values, np.float64), share))


def write_csv(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: Sequence[dict[str, object]] | Sequence[dict[str, str]]) -> str:
    """The rows as a Markdown table."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    return "\n".join(lines + [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows])


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar; call what it yields after each piece."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
