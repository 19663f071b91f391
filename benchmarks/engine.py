"""How fast is the language model here, against the way LISA is released, and how far from what this chip can do?

    python benchmarks/engine.py --out build/engine.csv                  # a CPU: the tiny model, as it is served
    python benchmarks/engine.py --model 7b --out build/engine_7b.csv    # a GPU: LISA-7B's shapes, random weights

On a GPU machine with nothing of this repository installed, any python3 with torch, numpy, tokenizers, safetensors and rich:

    mkdir -p /tmp/map && ln -sfn $PWD/ensemble /tmp/map/sightline_ensemble && PYTHONPATH=/tmp/map PYTHONUNBUFFERED=1 \
      python3 benchmarks/engine.py --model 7b --minutes 8 --out $OUT/engine_7b.csv

Every row has its share of the two ceilings, a large matrix product and a large copy measured in the same run. What a machine
lacks, or what the minutes do not allow, is a row that says so. The CSV is written after every row. docs/engine.md explains it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

import torch
from engine_models import SIZES, Subject, cached_operations, forward_operations, reference_operations, shapes, subject, weight_bytes
from engine_runs import Absent, Ours, copied, fold, prompt_ids, reference, transformers_generate
from harness import ROOT, table, write_csv
from rich.console import Console
from sam_clock import Clock
from sightline_ensemble.lisa.cache import Store
from sightline_ensemble.lisa.crossover import Timing, timings
from sightline_ensemble.lisa.int4 import Int4Linear, unpacked
from sightline_ensemble.lisa.limits import Threads
from sightline_ensemble.lisa.model import Llama
from torch import Tensor

REFERENCE, CACHED, ENGINE = "the reference's way", "KV cache, bf16, one at a time", "engine, 4-bit"
KERNEL, UNPACKED = "4-bit kernel", "unpacked, bf16 product"
PARTS = ("request", "decode", "prefill", "product")
SHOWN = ("technique", "part", "streams", "tokens_s", "ms", "cpu_ms", "threads", "x", "gb_s", "gb_share", "tflops", "tflops_share", "remark")


@dataclass
class Row:
    """A line of the CSV; None where nothing was measured, and then `remark` says why."""

    machine: str
    model: str
    technique: str
    part: str  # request: picture, prompt and answer; decode: a token for each; prefill: a prompt; product: the largest layer's
    streams: int  # requests together; rows of a product
    tokens_s: float | None = None  # new tokens in all, of prefill the prompt's
    ms: float | None = None  # of all requests, one step, one prompt, one product
    cpu_ms: float | None = None  # processor time of the same: what a core of one's own would take, of one thread
    threads: int | None = None  # at the end: all while nobody else needed a core
    x: float | None = None  # requests: times as many a second as the reference's way in this run
    gb_s: float | None = None  # weights and cache read
    gb_ceiling: float | None = None
    gb_share: float | None = None
    tflops: float | None = None
    tflops_ceiling: float | None = None
    tflops_share: float | None = None
    remark: str = ""
    load: str = field(default_factory=lambda: f"{os.getloadavg()[0]:.1f}")
    versions: str = f"torch {torch.__version__}"
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())

    @property
    def text(self) -> dict[str, str]:
        found = asdict(self).items()
        return {name: "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in found}


@dataclass
class Bench:
    """One model on one machine; `keep` takes each row as soon as it is there."""

    of: Subject
    clock: Clock
    new: int
    streams: Sequence[int]
    parts: Sequence[str]
    threads: int
    end: float
    keep: Callable[[Row], None]
    alone: float | None = None  # seconds of one request the reference's way

    def __post_init__(self) -> None:
        self.prompt, self.copy, self.pace = len(prompt_ids(self.of)), copied(self.clock), Threads(self.threads)

    def all(self) -> None:
        if "request" in self.parts:
            self._row(REFERENCE, "request", 1, self._reference)
        if set(self.parts) - {"product"}:
            self._ours(CACHED, self.of.plain, (1,))
            self._ours(ENGINE, self.of.served, self.streams)
        for name, four_bit in (("transformers generate, bf16", False), ("bitsandbytes NF4, generate", True)):
            for count in self.streams if "request" in self.parts else ():
                self._row(name, "request", count, partial(self._generate, four_bit))
        if "product" in self.parts:
            self._products()

    def _ours(self, technique: str, model: Llama, streams: Sequence[int]) -> None:
        ours = Ours.over(self.of, model, max(streams), self.threads)
        if "prefill" in self.parts:
            self._row(technique, "prefill", 1, partial(self._prefill, ours))
        for part, fill in (("decode", self._decode), ("request", self._answer)):
            for count in streams if part in self.parts else ():
                self._row(technique, part, count, partial(fill, ours))
        ours.close()

    def _row(self, technique: str, part: str, streams: int, fill: Callable[[Row], None]) -> None:
        row = Row(self.clock.name, self.of.name, technique, part, streams)
        try:
            if time.monotonic() > self.end:
                raise Absent("no time left of the budget")
            fill(row)
        except Absent as reason:
            row.remark = f"absent: {reason}"
        except Exception as error:
            row.remark = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        self.keep(row)

    # --- what fills a row ---------------------------------------------------------------------------------------------
    def _reference(self, row: Row) -> None:
        self._spend(row, lambda: reference(self.of, self.new), once=True)
        self.alone = 1e-3 * row.ms
        self._requests(row, reference_operations(self.of, self.prompt, self.new))

    def _prefill(self, ours: Ours, row: Row) -> None:
        self._spend(row, ours.prompt(self.prompt))
        self._rates(row, self.prompt, 0, forward_operations(self.of.config, 0, self.prompt, 0))

    def _decode(self, ours: Ours, row: Row) -> None:
        count, seen = row.streams, self.prompt + 24
        self._spend(row, ours.token(count))
        cache = Store.bytes_of(self.of.config, torch.bfloat16, -(-seen // 16)) * count
        self._rates(row, count, weight_bytes(ours.engine.runner.model) + cache, count * forward_operations(self.of.config, seen, 1, 1))

    def _answer(self, ours: Ours, row: Row) -> None:
        self._spend(row, lambda: ours.requests(row.streams, self.new), once=True)
        self._requests(row, cached_operations(self.of, self.prompt, self.new) * row.streams)

    def _generate(self, four_bit: bool, row: Row) -> None:
        self._spend(row, transformers_generate(self.of, row.streams, self.new, four_bit))
        self._requests(row, cached_operations(self.of, self.prompt, self.new) * row.streams)

    def _products(self) -> None:
        """Rows of the largest layer, by the kernel and unpacked."""
        layers = [(name, m) for name, m in self.of.served.named_modules() if isinstance(m, Int4Linear)]
        name, layer = max(layers, key=lambda pair: pair[1].bytes)
        q4 = self.of.tensors[f"{name.removesuffix('.base')}.q4"]
        for count in (1, 8, 32, 64, 128, 256, 512):
            timing: list[Timing] = []
            for technique in (KERNEL, UNPACKED):
                self._row(technique, "product", count, partial(self._product, layer, q4, timing))

    def _product(self, layer: Int4Linear, q4: Tensor, timing: list[Timing], row: Row) -> None:
        if not timing:
            self.pace.set(prompt=True)
            timing += timings(layer, q4, unpacked, (row.streams,))
        row.ms = 1e3 * (timing[0].kernel if row.technique == KERNEL else timing[0].dense)
        self._rates(row, 0, layer.packed.nbytes + layer.sz.nbytes, 2.0 * layer.inputs * layer.outputs * row.streams)

    def _spend(self, row: Row, run: Callable[[], object], once: bool = False) -> None:
        """Median of several runs, or what one run takes."""
        if not once:
            self.pace.set(prompt=row.part != "decode")
            run()
        if self.clock.cuda:
            row.ms = self.clock.once(run) if once else self.clock.median(run)[0]
            return
        spent: list[tuple[float, float]] = []
        while not spent or (not once and (len(spent) < 5 or (len(spent) < 30 and sum(wall for wall, _ in spent) < 2))):
            self.pace.set(prompt=row.part != "decode")
            begin, busy = time.perf_counter(), time.process_time()
            run()
            spent.append((time.perf_counter() - begin, time.process_time() - busy))
        row.threads = torch.get_num_threads()
        row.ms, row.cpu_ms = (1e3 * median(each) for each in zip(*spent, strict=True))

    def _requests(self, row: Row, operations: float) -> None:
        assert row.ms
        row.x = 1e3 * self.alone * row.streams / row.ms if self.alone else None
        self._rates(row, self.new * row.streams, 0, operations)

    def _rates(self, row: Row, tokens: int, read: float, operations: float) -> None:
        assert row.ms
        row.tokens_s = 1e3 * tokens / row.ms if tokens else None
        row.tflops, row.tflops_ceiling = 1e-9 * operations / row.ms, self.clock.ceiling("bf16")
        row.tflops_share = row.tflops / row.tflops_ceiling
        if read:
            row.gb_s, row.gb_ceiling = 1e-6 * read / row.ms, self.copy
            row.gb_share = row.gb_s / self.copy


def main(arguments: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser(description="Measures the language model by every technique that this machine has.")
    top.add_argument("--model", choices=["tiny", *SIZES], default="tiny", help="default: tiny; the others need a GPU")
    top.add_argument("--streams", nargs="+", type=int, metavar="N", help="requests together (default: 1 8 16; GPU: 1 8 16 32 64)")
    top.add_argument("--tokens", type=int, default=48, metavar="N", help="new tokens of a request (default: %(default)s)")
    top.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    top.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of a CPU, at most (default: its cores)")
    top.add_argument("--minutes", type=float, default=8, help="budget; what would not fit is named (default: %(default)s)")
    top.add_argument("--out", type=Path, default=ROOT / "build" / "engine.csv", metavar="CSV", help="default: build/engine.csv")
    chosen = top.parse_args(arguments)
    cuda = torch.cuda.is_available()
    if chosen.model != "tiny" and not cuda:
        top.error(f"--model {chosen.model}: expected a GPU, this machine has none")
    streams = chosen.streams or ([1, 8, 16, 32, 64] if chosen.model != "tiny" else [1, 8, 16])
    if min(*streams, chosen.tokens, chosen.threads) < 1 or not chosen.minutes > 0:
        top.error("--streams, --tokens, --threads and --minutes: expected numbers above 0")
    end = time.monotonic() + 60 * chosen.minutes
    console, rows = Console(highlight=False, markup=False, soft_wrap=True), []
    of = subject(chosen.model, torch.device("cuda" if chosen.model != "tiny" else "cpu"))
    clock = Clock.of(of.device.type)

    def keep(row: Row) -> None:
        rows.append(row)
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(chosen.out, [each.text for each in rows])
        console.print(" · ".join(f"{key} {row.text[key]}" if key not in SHOWN[:2] else row.text[key] for key in SHOWN if row.text[key]))

    busy = f"; at most {chosen.threads} threads, load {os.getloadavg()[0]:.1f}" if not clock.cuda else ""
    console.print(f"{clock.name}; torch {torch.__version__}{busy}")
    for each in (of, *(shapes(size) for size in SIZES if size != of.name)):
        console.print(fold(each, chosen.tokens))
    Bench(of, clock, chosen.tokens, streams, chosen.parts, chosen.threads, end, keep).all()
    console.print("\n" + table([{key: row.text[key] for key in SHOWN} for row in rows]) + f"\nrows: {chosen.out}")
    return 0 if any(row.ms for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
