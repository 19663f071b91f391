"""How much memory does the whole server hold while it serves, and how small are the language model's large weights?"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import REPOSITORY, Measure, Target, main, table, write_csv
from safetensors import safe_open
from sightline import Client
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.serve.processes import children, command_line
from sightline_training.data import cells

LARGE = re.compile(r"layers\.\d+\.(qkv|o|gate_up|down)\.(q4|sz|q8|s8|weight)$")
WARM, AT_ONCE = 32, 8
GB, MB = 1e9, 1e6


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(other for child in children(pid) for other in family(child.pid))]


def resident(pid: int) -> int:
    """Bytes of RAM, pages that several processes share counted in part by each (PSS); 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * int(re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)[1])


def name(pid: int) -> str:
    """Which process of the server it is, without a path."""
    line = command_line(pid)
    if len(line) > 2 and line[0].endswith("triton_python_backend_stub"):
        return f"step {line[-2]}"
    return "tritonserver" if line and line[0].endswith("tritonserver") else "sightline-serve"


def processes(root: int) -> list[dict[str, object]]:
    rows = [{"process": name(pid), "resident_mb": round(resident(pid) / MB, 1)} for pid in family(root)]
    return sorted((row for row in rows if row["resident_mb"]), key=lambda row: -row["resident_mb"])


def by_name(root: int) -> dict[str, float]:
    """MB of each process; two of one name together."""
    found: Counter[str] = Counter()
    for pid in family(root):
        found[name(pid)] += resident(pid) / MB
    return dict(found)


def peak(target: Target) -> list[dict[str, object]]:
    """The processes at the largest of the moments looked at while eight clients are served, after as many warmed it up."""
    chosen = cells("test")
    largest: list[dict[str, object]] = []
    with Client(target.url) as client, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = [pool.submit(client.inspect, cell.path) for cell in chosen[:WARM]]
        while not all(answer.done() for answer in answers):
            found = processes(target.process)
            largest = max(largest, found, key=total)
            time.sleep(1.0)
        for answer in answers:
            answer.result()
    return largest


def total(rows: list[dict[str, object]]) -> float:
    return sum(row["resident_mb"] for row in rows)


def weights(profile: str) -> tuple[list[dict[str, object]], int, int]:
    """Each kind of large linear layer of the language model, the bytes stored for all of them, and what bf16 would take."""
    path = load_manifest(REPOSITORY / "lisa_engine", profile).path("model.safetensors")
    stored: dict[tuple[str, str], list[int]] = {}
    bf16 = 0
    with safe_open(path, "numpy") as file:
        for key in file.keys():
            if not (found := LARGE.fullmatch(key.removeprefix("model."))):
                continue
            part = file.get_slice(key)
            count = size(part.get_shape())
            entry = stored.setdefault((found[1], found[2]), [0, 0])
            entry[0], entry[1] = entry[0] + 1, entry[1] + count * BYTES[part.get_dtype()]
            bf16 += 2 * count * {"q4": 2, "q8": 1, "weight": 1}.get(found[2], 0)
    rows = [{"layer": layer, "tensor": kind, "tensors": n, "bytes": b} for (layer, kind), (n, b) in sorted(stored.items())]
    return rows, sum(row["bytes"] for row in rows), bf16


BYTES = {"U8": 1, "I8": 1, "BF16": 2, "F16": 2, "F32": 4}


def size(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes memory.csv (each process) and weights.csv (each kind of large linear layer)."""
    rows, stored, bf16 = weights(target.profile)
    write_csv(out / "weights.csv", rows)
    print(table(rows))
    print(f"large linear layers: {stored} bytes, as bf16 {bf16} bytes")
    result = [
        Measure("memory", "language model's large linear weights, 4-bit", stored / MB, "MB", len(rows)),
        Measure("memory", "the same as bf16", bf16 / MB, "MB", len(rows)),
        Measure("memory", "4-bit / bf16", stored / bf16, "", len(rows), "<= 0.32"),
    ]
    if target.process:  # another machine's processes cannot be looked at
        found = peak(target)
        write_csv(out / "memory.csv", found)
        print(table(found))
        engine = next(row["resident_mb"] for row in found if "lisa_engine" in row["process"])
        result.append(Measure("memory", "whole server resident, largest seen", total(found) * MB / GB, "GB", len(found), "<= 2.5"))
        result.append(Measure("memory", "of it the language model's process", engine * MB / GB, "GB", 1))
    return result


if __name__ == "__main__":
    sys.exit(main({"memory": measure}))
