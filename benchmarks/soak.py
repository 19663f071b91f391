"""Thousands of requests of every sort at once: does anyone get an answer that it would not have got alone, does memory grow?

Good pictures, streams, cut-outs, damaged and tiny and huge pictures, wrong inputs, clients that leave and clients whose time is short.
Each distinct request is asked alone first; what it gets among others must be the same.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from harness import Measure, Target, main, percentile, progress, write_csv
from latency import spread
from memory import by_name
from overload import restarts
from PIL import Image
from sightline import Client, NotInspected
from sightline.report import Complete, Report, Verdict
from sightline_ensemble import ledger
from sightline_ensemble.serve import processes
from sightline_training.data import cells

REQUESTS, AT_ONCE, CHUNK, SEED = 5000, 8, 250, 5
HANG_SECONDS = 120.0
SHORT = 8  # tokens of most answers, so that thousands take minutes


@dataclass(frozen=True)
class Answer:
    """What is compared: words that must be equal, a mask that must overlap by 0.99; `text` may differ in a word (docs/lisa.md)."""

    words: tuple[object, ...]
    mask: np.ndarray | None = None
    text: str = ""

    def agrees(self, other: Answer) -> bool:
        if self.words != other.words or (self.mask is None) != (other.mask is None):
            return False
        if self.mask is None or other.mask is None:
            return True
        union = int((self.mask | other.mask).sum())
        return not union or int((self.mask & other.mask).sum()) >= 0.99 * union


@dataclass(frozen=True)
class Case:
    """One distinct request."""

    kind: str
    ask: Callable[[Client], Answer]


def answer(report: Report) -> Answer:
    return Answer((report.verdict, tuple(report.locations)), report.mask, report.text)


def inspect(client: Client, picture: bytes, **options: object) -> Answer:
    return answer(client.inspect(picture, timeout=HANG_SECONDS, **options))  # type: ignore[arg-type]


def stream(client: Client, picture: bytes) -> Answer:
    events = list(client.stream(picture, timeout=HANG_SECONDS, max_tokens=SHORT))
    assert isinstance(events[0], Verdict) and isinstance(events[-1], Complete)
    return answer(events[-1].report)


def leave(client: Client, picture: bytes) -> Answer:
    """A stream that its client closes after the first event."""
    events = client.stream(picture, timeout=HANG_SECONDS)
    first = next(events)
    events.close()  # type: ignore[attr-defined]
    return Answer((type(first).__name__,))


def late(client: Client, picture: bytes) -> Answer:
    """A deadline that nobody can meet."""
    return answer(client.inspect(picture, timeout=0.05))


def segment(client: Client, picture: bytes) -> Answer:
    found = client.segment(picture, box=(40, 40, 260, 260), timeout=HANG_SECONDS)
    return Answer((round(found.iou, 3),), found.mask)


def cases(which: int = 0) -> dict[str, tuple[float, list[Case]]]:
    """Each sort's share and its distinct requests. `which`: 0 to 3, of other pictures each."""
    pictures = [cell.path.read_bytes() for cell in spread(cells("test"), 96)[which::4]]
    rng = np.random.default_rng(SEED)
    huge = [_encoded(np.kron(rng.integers(0, 256, (20, 30), np.uint8), np.ones((150, 150), np.uint8)), "JPEG") for _ in range(2)]
    tiny = [_encoded(rng.integers(0, 256, (h, w), np.uint8), "PNG") for h, w in ((1, 1), (1, 9), (7, 2), (16, 16))]
    damaged = [pictures[0][:-200], b"", b"\x89PNG\r\n\x1a\n" + bytes(100), rng.bytes(5000), pictures[1][:40]]
    wrong = [{"box": (400.0, 400.0, 500.0, 500.0)}, {"prompt": "?" * 2001}, {"product": "nobody"}, {"max_tokens": 0}]
    wrong += [{"history": [{"role": "x", "content": ""}]}]
    short = partial(inspect, max_tokens=SHORT)

    def of(kind: str, ask: Callable[..., Answer], chosen: list[bytes]) -> list[Case]:
        return [Case(kind, partial(_with, ask, picture)) for picture in chosen]

    return {
        "good": (0.30, of("good", short, pictures)),
        "whole": (0.10, of("whole", inspect, pictures)),
        "stream": (0.12, of("stream", stream, pictures)),
        "segment": (0.10, of("segment", segment, pictures)),
        "damaged": (0.10, of("damaged", short, damaged)),
        "wrong": (0.10, [Case("wrong", partial(_with, partial(inspect, **options), pictures[0])) for options in wrong]),
        "left": (0.06, of("left", leave, pictures)),
        "late": (0.06, of("late", late, pictures)),
        "tiny": (0.04, of("tiny", short, tiny)),
        "huge": (0.02, of("huge", short, huge)),
    }


def _with(ask: Callable[..., Answer], picture: bytes, client: Client) -> Answer:
    try:
        return ask(client, picture)
    except NotInspected as error:
        return Answer((type(error).__name__, "" if "timeout" in str(error) else str(error)))


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def drawn(sorts: dict[str, tuple[float, list[Case]]], count: int) -> Iterator[Case]:
    rng, names = np.random.default_rng(SEED), list(sorts)
    for name in rng.choice(names, count, p=[sorts[n][0] for n in names]):
        chosen = sorts[str(name)][1]
        yield chosen[int(rng.integers(len(chosen)))]


@dataclass
class Seen:
    """What became of the requests, and the MB of each of the idle server's processes after so many of them."""

    rows: list[dict[str, object]]
    memory: list[tuple[int, dict[str, float]]]
    left: int = 0  # still admitted when all had ended


def soak(target: Target, count: int) -> Seen:
    sorts = cases()
    seen = Seen([], [])
    with Client(target.url, attempts=1, timeout=HANG_SECONDS) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        alone = {id(case): case.ask(client) for _, chosen in sorts.values() for case in chosen}
        warm(client, pool)
        plan = list(drawn(sorts, count))

        def one(case: Case) -> dict[str, object]:
            begin, expected = time.perf_counter(), alone[id(case)]
            got = case.ask(client)
            step()
            seconds = time.perf_counter() - begin
            ends = {"right": int(got.agrees(expected)), "text_same": int(got.text == expected.text), "hangs": int(seconds >= HANG_SECONDS)}
            return {"kind": case.kind, "ms": round(1e3 * seconds, 1), **ends, "expected": _name(expected), "got": _name(got)}

        with progress("soak", count) as step:
            for begin in range(0, count, CHUNK):
                seen.rows += pool.map(one, plan[begin : begin + CHUNK])
                if target.process:
                    seen.left = in_flight(target)
                    seen.memory.append((len(seen.rows), by_name(target.process)))
    return seen


def warm(client: Client, pool: ThreadPoolExecutor) -> None:
    """Of one sort at once, and never seen before, as many as will be under way: a largest batch is not to look like a leak."""
    for which in (1, 2, 3):
        for _, chosen in cases(which).values():
            list(pool.map(lambda case: case.ask(client), chosen))


def _name(answer: Answer) -> str:
    """The words, and the mask as a few digits."""
    mask = "" if answer.mask is None else hashlib.sha256(np.packbits(answer.mask).tobytes()).hexdigest()[:8]
    return " ".join(map(str, (*answer.words, mask))).strip()


def in_flight(target: Target, seconds: float = 10.0) -> int:
    """Requests that the server still counts as admitted, a moment after the last one has ended; a canary may be one."""
    rows = ledger.Ledger(next(processes.SHARED_MEMORY.glob(f"sightline_{target.process}_*_ledger")))
    end = time.monotonic() + seconds
    while (left := rows.in_flight()) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def memory_rows(memory: list[tuple[int, dict[str, float]]]) -> list[dict[str, object]]:
    """A column for each process, so that the one that grows is known; 0 where it was not there."""
    names = sorted({name for _, found in memory for name in found})
    sums = [{"requests": count, "resident_mb": round(sum(found.values()), 2)} for count, found in memory]
    return [row | {name: round(found.get(name, 0.0), 2) for name in names} for row, (_, found) in zip(sums, memory, strict=True)]


def slope(memory: list[tuple[int, float]], warm: float = 0.2) -> float:
    """MB per 1,000 requests; the first fifth, or what `warm` says, warms up."""
    counts, values = np.array([pair for pair in memory if pair[0] > memory[-1][0] * warm]).T
    return float(1000 * np.polyfit(counts, values, 1)[0])


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes soak.csv (how each sort ended) and soak_memory.csv."""
    seen = soak(target, REQUESTS)
    n, kinds = len(seen.rows), Counter(row["kind"] for row in seen.rows)
    lines = [summary(kind, [row for row in seen.rows if row["kind"] == kind]) for kind in kinds]
    write_csv(out / "soak.csv", lines)
    compared = [row for row in seen.rows if row["kind"] in ("good", "whole", "stream")]
    found = [
        Measure("soak", "mixed requests", n, "", n, f">= {REQUESTS}"),
        Measure("soak", "wrong answers", n - sum(row["right"] for row in seen.rows), "", n, "<= 0"),
        Measure("soak", "requests that hang", sum(row["hangs"] for row in seen.rows), "", n, "<= 0"),
        Measure("soak", "equal sentences", 100 * sum(row["text_same"] for row in compared) / len(compared), "%", len(compared)),
    ]
    for row in [row for row in seen.rows if not row["right"]][:10]:
        print(row)
    if target.process:
        write_csv(out / "soak_memory.csv", memory_rows(seen.memory))
        sums = [(count, sum(of.values())) for count, of in seen.memory]
        found.append(Measure("soak", "memory per 1,000 requests, idle", slope(sums), "MB", len(sums), "<= 1"))
        found.append(Measure("soak", "the same over the second half", slope(sums, 0.5), "MB", len(sums) // 2))
        found.append(Measure("soak", "requests still admitted at the end", seen.left, "", 1, "<= 0"))
        found.append(Measure("soak", "restarts of the server", restarts(target), "", 1, "<= 0"))
    return found


def summary(kind: str, rows: list[dict[str, object]]) -> dict[str, object]:
    times = [float(str(row["ms"])) for row in rows]
    right = sum(int(str(row["right"])) for row in rows)
    ends = {f"p{share}_ms": round(percentile(times, share), 1) for share in (50, 99)}
    return {"kind": kind, "requests": len(rows), "right": right, **ends}


if __name__ == "__main__":
    sys.exit(main({"soak": measure}))
