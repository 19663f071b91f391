"""How fast is SAM here, and how far from what this chip can do? Encoder and decoder by every technique that the machine has.

    python benchmarks/sam.py --models vit_b --batches 1 4 --out build/sam.csv

On a GPU machine with nothing of this repository installed, any python3 with torch, numpy and rich will do (onnx, onnxscript,
onnxruntime-gpu and TensorRT add their rows):

    mkdir -p /tmp/map && ln -sfn $PWD/ensemble /tmp/map/sightline_ensemble && ln -sfn $PWD/export /tmp/map/sightline_export \
      && PYTHONPATH=/tmp/map PYTHONUNBUFFERED=1 python3 benchmarks/sam.py --models vit_h vit_b --minutes 8 --out $OUT/sam_gpu.csv

Every row has its share of the ceiling, a large matrix product of the same type measured in the same run, and its largest
difference from torch in fp32. What a machine lacks, or what the minutes or the memory do not allow, is a row that says so.
The CSV is written after every row: a run that is stopped keeps what it measured. docs/sam.md explains the columns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from harness import ROOT, table, write_csv
from rich.console import Console
from sam_clock import Clock
from sam_parts import PARTS, Part
from sam_runners import BASE, Absent, Place, Technique, library, techniques
from sam_torch import Step
from sightline_export.sam_encoder import SIZES
from torch import Tensor

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
SHOWN = ("model", "part", "technique", "dtype", "batch", "ms", "images_s", "x_eager", "tflops", "share", "parity", "remark")
GRAPH = ", CUDA graph"


class Skipped(Exception):
    """A batch does not fit the minutes or the memory that are left."""


@dataclass
class Row:
    """A line of the CSV; None where nothing was measured, and then `remark` says why."""

    machine: str
    part: str
    model: str
    technique: str
    dtype: str
    batch: int | None = None
    ms: float | None = None  # median of one batch
    images_s: float | None = None
    x_eager: float | None = None  # times as fast as torch eager fp32 at the same batch in this run
    tflops: float | None = None
    ceiling_tflops: float | None = None
    share: float | None = None
    copy_gb_s: float | None = None
    parity: float | None = None  # largest difference from torch eager fp32, of that one's range
    runs: int | None = None
    first_s: float | None = None  # preparation (compiling, exporting, building) and the first run
    remark: str = ""
    versions: str = ""
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    @property
    def text(self) -> dict[str, str]:
        return {name: _text(value) for name, value in asdict(self).items()}


def _text(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass
class Bench:
    """One part on one machine. `reference`: torch eager fp32's first output; `eager`: its milliseconds by batch."""

    part: Part
    place: Place
    clock: Clock
    reference: Tensor | None = None
    eager: dict[int, float] = field(default_factory=dict)

    def rows(self, technique: Technique) -> Iterator[Row]:
        """One row for each batch, and for its CUDA graph; one alone where the technique is absent."""
        begin, last = time.perf_counter(), None
        try:
            self._fits(technique, self.place.batches[0], None)
            runner = technique.prepare(self.part, self.place)
        except Skipped as reason:
            yield from (self._row(technique, batch, str(reason)) for batch in self.place.batches)
            return
        except Exception as error:
            yield self._row(technique, None, _reason(error))
            return
        for batch in self.place.batches:
            try:
                self._fits(technique, batch, last)
                step = runner(self.part.inputs(batch))
                found = self.clock.finished(step)
                first = time.perf_counter() - begin
                row = self._measured(technique, batch, step, found)
                row.first_s = first
                last = (batch, row.ms or 0.0)
                yield row
                if technique.graph and self.clock.cuda:
                    yield self._graphed(technique, batch, step)
            except Exception as error:
                yield self._row(technique, batch, _reason(error))
            found = step = None  # gives the memory back before the next batch
            begin = time.perf_counter()

    def _fits(self, technique: Technique, batch: int, last: tuple[int, float] | None) -> None:
        """Skipped unless time and memory allow this batch, judged by what was measured in this run."""
        runs = self.clock.fewest + 2
        if last:
            expected = last[1] * batch / last[0]
        else:
            expected = self.eager.get(batch) or 1e-9 * self.part.flops * batch / self.clock.ceiling("fp32")  # a type may have no hardware
        needed, left = 1e-3 * expected * runs, self.place.left()
        if needed > left:
            raise Skipped(f"skipped: {runs} runs need about {needed:.0f} s, of the budget {max(left, 0):.0f} s are left")
        memory, free = technique.scores * self.part.scores * batch * BYTES[technique.dtype], self.clock.free()
        if free is not None and memory > free:
            raise Skipped(f"skipped: its attention needs about {memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")

    def _graphed(self, technique: Technique, batch: int, step: Step) -> Row:
        try:
            replay = self.clock.captured(step)
            row = self._measured(technique, batch, replay, replay())
        except Exception as error:
            row = self._row(technique, batch, _reason(error))
        row.technique += GRAPH
        return row

    def _measured(self, technique: Technique, batch: int, step: Step, found: Tensor) -> Row:
        if technique.name == BASE:
            self.reference = found.clone()
        row = self._row(technique, batch)
        row.parity = self._difference(found)
        row.ms, row.runs = self.clock.median(step)
        if technique.name == BASE:
            self.eager[batch] = row.ms
        row.images_s, row.tflops = 1e3 * batch / row.ms, 1e-9 * self.part.flops * batch / row.ms
        row.ceiling_tflops, row.copy_gb_s = self.clock.ceiling(technique.dtype), self.clock.copy
        row.share = row.tflops / row.ceiling_tflops
        row.x_eager = self.eager[batch] / row.ms if batch in self.eager else None
        row.versions = ", ".join(dict.fromkeys((f"torch {torch.__version__}", library(technique))))
        return row

    def _difference(self, found: Tensor) -> float | None:
        """Over the pictures that the reference has seen; NaN where there is one."""
        if self.reference is None:
            return None
        count = min(len(found), len(self.reference))
        expected = self.reference[:count].double().cpu()
        return ((found[:count].double().cpu() - expected).abs().max() / (expected.max() - expected.min())).item()

    def _row(self, technique: Technique, batch: int | None, remark: str = "") -> Row:
        return Row(self.clock.name, self.part.name, self.part.model, technique.name, technique.dtype, batch, remark=remark)


def _reason(error: Exception) -> str:
    """One line: why there is no figure."""
    if isinstance(error, Skipped):
        return str(error)
    text = " ".join(str(error).split())[:160]
    return f"absent: {text}" if isinstance(error, Absent) else f"failed: {type(error).__name__}: {text}"


def measure(chosen: argparse.Namespace, console: Console) -> list[Row]:
    """All rows; each is printed and written as soon as it is there."""
    end, clock = time.monotonic() + 60 * chosen.minutes, Clock.of("cuda" if torch.cuda.is_available() else "cpu")
    console.print(f"{clock.name}; torch {torch.__version__}; copy {_text(clock.copy) or 'not measured'} GB/s", soft_wrap=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        place = Place(clock.device, Path(folder), sorted(set(chosen.batches)), lambda: end - time.monotonic())
        for name, model in [(part, model) for model in chosen.models for part in chosen.parts]:
            if name == "decoder" and model != chosen.models[0]:
                continue  # one decoder serves all sizes
            bench = Bench(PARTS[name](SIZES[model]), place, clock)
            for technique in techniques(clock.cuda):
                if (chosen.only and technique.name not in chosen.only) or name not in technique.parts:
                    continue
                for row in bench.rows(technique):
                    rows.append(row)
                    write_rows(chosen.out, rows)
                    console.print(line(row))
    return rows


def line(row: Row) -> str:
    """What is printed as soon as a row is there."""
    text = row.text
    found = [f"{text['ms']} ms", f"{text['images_s']} images/s", f"{text['tflops']} TFLOP/s = {text['share']} of the ceiling"]
    batch = [f"batch {row.batch}"] if row.batch else []
    return " · ".join([f"{row.part} {row.model}", f"{row.technique} {row.dtype}", *batch, *(found if row.ms else [row.remark])])


def write_rows(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    write_csv(temporary, [row.text for row in rows])
    temporary.replace(path)


def best(rows: Sequence[Row]) -> Iterator[str]:
    """For each part the fastest row, and what the ceiling would allow."""
    for part, model in dict.fromkeys((row.part, row.model) for row in rows):
        found = [row for row in rows if (row.part, row.model) == (part, model) and row.images_s]
        if found:
            row = max(found, key=lambda row: row.images_s or 0)
            limit = (row.images_s or 0) / (row.share or 1)
            yield (
                f"{part} of {model}: {row.images_s:.4g} images/s at batch {row.batch} by {row.technique} {row.dtype}; "
                f"the measured ceiling of {row.ceiling_tflops:.4g} TFLOP/s allows {limit:.4g}"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser(description="Measures SAM's encoder and decoder by every technique that this machine has.")
    top.add_argument("--models", nargs="+", choices=list(SIZES), default=["vit_b", "vit_h"], help="sizes (default: vit_b vit_h)")
    top.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: encoder decoder")
    top.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8, 16], metavar="N", help="default: 1 4 8 16")
    top.add_argument("--only", nargs="+", metavar="TECHNIQUE", help="techniques, by the names in the table (default: all)")
    top.add_argument("--minutes", type=float, default=8, help="budget; what would not fit is named as skipped (default: %(default)s)")
    top.add_argument("--out", type=Path, default=ROOT / "build" / "sam.csv", metavar="CSV", help="default: build/sam.csv")
    chosen = top.parse_args(arguments)
    if min(chosen.batches) < 1 or not chosen.minutes > 0:
        top.error(f"--batches and --minutes: expected numbers above 0, found {chosen.batches} and {chosen.minutes}")
    if unknown := set(chosen.only or ()) - {technique.name for technique in techniques(False)}:
        top.error(
            f"--only: no technique {', '.join(sorted(unknown))}; there are {', '.join(dict.fromkeys(t.name for t in techniques(False)))}"
        )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    rows = measure(chosen, console)
    console.print("\n" + table([{key: row.text[key] for key in SHOWN} for row in rows]))
    for line in best(rows):
        console.print(line)
    console.print(f"rows: {chosen.out}")
    return 0 if any(row.ms for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
