"""Writes the tables of results into README.md and docs/deployment.md from benchmarks/results/summary.csv: `python benchmarks/readme.py`."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = ROOT / "benchmarks" / "results" / "summary.csv"
START, END = "<!-- results -->", "<!-- /results -->"
LOAD = ("comparison", "overload", "soak")  # by `make load`; all others by `make bench`
SPLIT = ROOT / "training" / "split.csv"


@dataclass(frozen=True)
class Page:
    """A document with a table. `load`: of the load tests, with every measure; otherwise of the others and of the comparison with a plain
    script, what has a bar."""

    path: Path
    load: bool
    head: str = ""

    def table(self) -> str:
        """The measures in the order of the CSV, and the machine they were taken on."""
        rows = [row for row in read() if self.has(row)]
        if not rows:
            return ""
        source = self.link(SUMMARY)
        lines = [self.head, "", "| what | measured | bar | command | source |", "| --- | --- | --- | --- | --- |"]
        for row in rows:
            value = f"{row['value']} {row['unit']}".strip()
            loaded = row["benchmark"] in LOAD
            name = f"{row['benchmark']}: {row['measure']}" if loaded else row["measure"]
            command = "make load" if loaded else "make bench"
            lines.append(f"| {name} | {value} | {row['bar']} | `{command}` | [summary.csv]({source}) |")
        machines = " and ".join(dict.fromkeys(row["machine"] for row in rows))
        about = "" if self.load else f"; quality on the 654 test cells of [training/split.csv]({self.link(SPLIT)})"
        return "\n".join([*lines, "", f"Taken on a shared machine ({machines}), where only ratios mean much{about}."]).lstrip("\n")

    def has(self, row: dict[str, str]) -> bool:
        if self.load:
            return row["benchmark"] in LOAD
        return bool(row["bar"]) and row["benchmark"] not in ("overload", "soak")

    def link(self, target: Path) -> str:
        return os.path.relpath(target, self.path.parent)

    def shown(self) -> str:
        """What the document holds now."""
        found = re.search(f"{START}\n(.*?)\n?{END}", self.path.read_text(), flags=re.DOTALL)
        return found[1] if found else ""

    def write(self) -> None:
        text = re.sub(f"{START}.*{END}", lambda _: f"{START}\n{self.table()}\n{END}", self.path.read_text(), flags=re.DOTALL)
        self.path.write_text(text)


PAGES = (Page(ROOT / "README.md", load=False, head="## Measured"), Page(ROOT / "docs" / "deployment.md", load=True))


def read() -> list[dict[str, str]]:
    with SUMMARY.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    for page in PAGES:
        page.write()


if __name__ == "__main__":
    main()
