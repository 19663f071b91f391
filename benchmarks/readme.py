"""Writes the README's table of results from benchmarks/results/summary.csv: `python benchmarks/readme.py`."""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = "benchmarks/results/summary.csv"
START, END = "<!-- results -->", "<!-- /results -->"


def table() -> str:
    """The measures that have a bar, in the order of the CSV, and the machine they were taken on."""
    with (ROOT / SUMMARY).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["bar"]]
    lines = ["## Measured", "", "| what | measured | bar | command | source |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        value = f"{row['value']} {row['unit']}".strip()
        lines.append(f"| {row['measure']} | {value} | {row['bar']} | `make bench` | [summary.csv]({SUMMARY}) |")
    machine = rows[-1]["machine"]
    cells = "the 654 test cells of [training/split.csv](training/split.csv)"
    lines += ["", f"Taken on a shared machine ({machine}), where only ratios mean much; quality on {cells}."]
    return "\n".join(lines)


def main() -> None:
    path = ROOT / "README.md"
    text = path.read_text()
    if END not in text:
        text = text.replace(START, f"{START}\n{END}")
    path.write_text(re.sub(f"{START}.*{END}", f"{START}\n{table()}\n{END}\n".rstrip("\n"), text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
