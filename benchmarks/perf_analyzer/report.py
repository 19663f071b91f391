"""What perf_analyzer said, as rows of our CSVs; and the CSVs as the tables of docs/deployment.md.

python benchmarks/perf_analyzer/report.py            # writes the tables anew from benchmarks/results/perf_analyzer*.csv
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "deployment.md"
RESULTS = ROOT / "benchmarks" / "results"
LOADS, STEPS = "perf_analyzer.csv", "perf_analyzer_steps.csv"
START, END = "<!-- perf_analyzer -->", "<!-- /perf_analyzer -->"
Row = dict[str, str]

_LOAD = re.compile(r"^(?:Request concurrency|Request Rate): ([\d.]+)", re.MULTILINE)
_STEP = re.compile(  # with a response cache on the server it says more, of every model
    r"^ +(\w+), version: \d+ *\n +Inference count: (\d+) *\n +Execution count: (\d+) *\n(?: +Cache \w+ count: \d+ *\n)*"
    r" +Successful request count: \d+ *\n +Avg request latency: (\d+) usec (\(.*\)(?:\n +Average Cache .*)*)",
    re.MULTILINE,
)


def read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def loads(path: Path, scenario: str, model: str) -> list[Row]:
    """A row for each load of perf_analyzer's own CSV."""
    rows = []
    for found in read(path):
        kind = "concurrency" if "Concurrency" in found else "requests a second"
        times = {f"p{share}_ms": _ms(found[f"p{share} latency"]) for share in (50, 90, 95, 99)}
        first = {"scenario": scenario, "model": model, "load": kind, "at": f"{float(next(iter(found.values()))):g}"}
        rows.append(first | {"answered_per_second": f"{float(found['Inferences/Second']):.3f}"} | times)
    return sorted(rows, key=lambda row: float(row["at"]))


def steps(text: str, scenario: str) -> list[Row]:
    """A row for each load and model inside of the ensemble; LISA's engine answers later than its step returns."""
    parts = _LOAD.split(text)[1:]
    rows = []
    for at, said in zip(parts[::2], parts[1::2], strict=True):
        for name, count, runs, total, detail in _STEP.findall(said):
            micro = {key: int(value) for key, value in re.findall(r"(queue|compute infer) (\d+) usec", detail)}
            if "compute infer" in micro:  # not an ensemble inside of the ensemble
                batch = f"{int(count) / max(int(runs), 1):.2f}"
                times = {"queue_ms": _ms(micro["queue"]), "compute_ms": _ms(micro["compute infer"]), "total_ms": _ms(total)}
                rows.append({"scenario": scenario, "at": f"{float(at):g}", "step": name, "requests": count, "mean_batch": batch} | times)
    return rows


def _ms(micro: str | int) -> str:
    return f"{int(micro) / 1e3:.1f}"


def table(rows: list[Row]) -> str:
    names = list(rows[0])
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *([row[name] for name in names] for row in rows))
    )


def tables(folder: Path = RESULTS) -> str:
    """Both CSVs as Markdown; of the steps the first scenario's, at its lowest and its highest load."""
    rows, inside = read(folder / LOADS), read(folder / STEPS)
    about = ("date", "machine", "load_before")
    shown = [{key: value for key, value in row.items() if key not in about} for row in rows]
    first = [row for row in inside if row["scenario"] == inside[0]["scenario"]]
    ends = {choose((row["at"] for row in first), key=float) for choose in (min, max)}
    place = f"{rows[-1]['date']}, {rows[-1]['machine']}, load before the run {rows[-1]['load_before']}."
    return "\n\n".join(
        [place, table(shown), "Step by step, at the lowest and the highest load:", table([row for row in first if row["at"] in ends])]
    )


def main() -> None:
    text = DOCUMENT.read_text()
    if START not in text or END not in text:
        sys.exit(f"report: {DOCUMENT.name} has no {START} ... {END}")
    before, rest = text.split(START, 1)
    DOCUMENT.write_text(f"{before}{START}\n{tables()}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main()
