"""NVIDIA's perf_analyzer on a running server: closed loop, open loop, shared memory, streaming; CSVs in benchmarks/results/.

    python benchmarks/perf_analyzer/sweep.py [--url HOST:PORT] [--only NAME ...]

It fetches perf_analyzer where it is missing and starts a server of its own unless --url names one (for shared memory that one must
run on this machine with --shared-memory).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sightline_ensemble.serve.running import running

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
import pictures  # noqa: E402
import report  # noqa: E402
from fetch import FetchError, fetch  # noqa: E402
from harness import machine, write_csv  # noqa: E402


@dataclass(frozen=True)
class Scenario:
    """A run of perf_analyzer. `words`: what makes it this one; `rates`: shares of what the server does at most, open loop."""

    name: str
    model: str
    words: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()


SHARED = ("--shared-memory", "system", "--output-shared-memory-size", "2097152")
SCENARIOS = (
    Scenario("concurrency", "inspect", ("--concurrency-range", "1:8:1")),
    Scenario("open loop", "inspect", ("--async", "--request-distribution", "poisson"), rates=(0.4, 0.6, 0.8)),
    Scenario("streaming", "inspect_stream", ("--streaming", "--async", "--concurrency-range", "1:8:7")),
    Scenario("segment", "segment", ("--concurrency-range", "1:4:3")),
    Scenario("segment, shared memory", "segment", ("--concurrency-range", "1:4:3", *SHARED)),
)


@dataclass(frozen=True)
class Bench:
    """Where and how perf_analyzer runs: always three windows of `requests`, for one that asks for calm never ends on a shared machine."""

    program: Path
    url: str
    folder: Path
    requests: int
    tokens: int

    def run(self, scenario: Scenario, words: Sequence[str]) -> tuple[Path, str]:
        """perf_analyzer's CSV and what it printed; RuntimeError with its last words where it failed."""
        data = pictures.write(self.folder / f"{scenario.model}.json", scenario.model, max_tokens=self.tokens)
        csv = self.folder / "perf_analyzer.csv"
        csv.unlink(missing_ok=True)
        line = [
            str(self.program),
            "-m",
            scenario.model,
            "-u",
            self.url,
            "-i",
            "grpc",
            "--input-data",
            str(data),
            *pictures.shapes(scenario.model),
        ]
        line += ["--measurement-mode", "count_windows", "--measurement-request-count", str(self.requests), "--stability-percentage", "999"]
        line += ["--max-trials", "3", "--percentile", "95", "--verbose-csv", "-f", str(csv), *words]
        done = subprocess.run(line, capture_output=True, text=True)
        if not csv.exists():
            raise RuntimeError(
                f"{scenario.name}: perf_analyzer ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}"
            )
        return csv, done.stdout


def measure(bench: Bench, scenario: Scenario, most: float) -> tuple[list[report.Row], list[report.Row]]:
    """Rows of loads and of steps. `most`: answers a second that a closed loop reached, which `rates` are shares of."""
    if not scenario.rates:
        csv, said = bench.run(scenario, scenario.words)
        return report.loads(csv, scenario.name, scenario.model), report.steps(said, scenario.name)
    loads, steps = [], []
    for share in scenario.rates:
        rate = f"{share * most:.2f}"
        csv, said = bench.run(scenario, (*scenario.words, "--request-rate-range", f"{rate}:{rate}:1"))
        loads += report.loads(csv, scenario.name, scenario.model)
        steps += report.steps(said, scenario.name)
    return loads, steps


def sweep(bench: Bench, scenarios: Sequence[Scenario], out: Path) -> None:
    """Runs the scenarios and writes both CSVs."""
    about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), "load_before": f"{os.getloadavg()[0]:.1f}"}
    loads, steps, most = [], [], 1.0
    for scenario in scenarios:
        print(f"{scenario.name} ...", flush=True)
        found, inside = measure(bench, scenario, most)
        if scenario.model == "inspect":
            most = max(most if loads else 0.0, *(float(row["answered_per_second"]) for row in found))
        loads, steps = loads + [row | about for row in found], steps + inside
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / report.LOADS, loads)
    write_csv(out / report.STEPS, steps)


@contextmanager
def address(url: str | None, profile: str) -> Iterator[str]:
    if url:
        yield url
        return
    with (
        tempfile.TemporaryDirectory() as products,
        running("--profile", profile, "--products", products, "--shared-memory", "--cache-bytes", "0") as server,
    ):
        yield server.grpc


def main(arguments: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser(description="perf_analyzer on Sightline with real pictures.")
    top.add_argument("--url", metavar="HOST:PORT", help="gRPC address of a running server (default: one of our own)")
    top.add_argument("--profile", default="tiny", help="of a server of our own (default: %(default)s)")
    top.add_argument("--only", nargs="+", metavar="NAME", choices=[s.name for s in SCENARIOS], help="scenarios (default: all)")
    top.add_argument("--requests", type=int, default=48, help="of each of three windows (default: %(default)s)")
    top.add_argument("--tokens", type=int, default=96, help="MAX_TOKENS of the requests (default: %(default)s)")
    top.add_argument("--out", type=Path, default=report.RESULTS, metavar="DIR", help="folder of the CSVs (default: benchmarks/results)")
    chosen = top.parse_args(arguments)
    scenarios = [scenario for scenario in SCENARIOS if not chosen.only or scenario.name in chosen.only]
    try:
        program = fetch()
        with tempfile.TemporaryDirectory() as folder, address(chosen.url, chosen.profile) as url:
            sweep(Bench(program, url, Path(folder), chosen.requests, chosen.tokens), scenarios, chosen.out)
    except (FetchError, RuntimeError) as error:
        print(f"sweep: {error}", file=sys.stderr)
        return 1
    print(report.tables(chosen.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
