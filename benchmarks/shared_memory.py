"""Shared memory against bytes over gRPC, in one run with rounds in turn: `python benchmarks/shared_memory.py`.

The model does nothing but hash its picture, so that the way there is what is measured. Writes `results/shared_memory.csv`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from harness import RESULTS, machine, table, write_csv
from rich.console import Console
from sightline import Client
from sightline_ensemble.serve.running import running

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "server"))
import echo  # noqa: E402

SIZES = (300_000, 1_000_000, 3_000_000, 10_000_000)  # a JPEG, a large JPEG, a PNG of 1 and one of 4 megapixels
ROUNDS, CALLS, THREADS = 8, 12, 4
WAYS = {"gRPC bytes": False, "shared memory": True}


def latencies(client: Client, picture: bytes) -> list[float]:
    found = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        client.inspect(picture)
        found.append((time.perf_counter() - begin) * 1e3)
    return found


def rate(client: Client, picture: bytes) -> float:
    """Requests a second of several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        begin = time.perf_counter()
        list(pool.map(client.inspect, [picture] * CALLS))
        return CALLS / (time.perf_counter() - begin)


def measure(address: str) -> list[dict[str, str]]:
    clients = {way: Client(address, shared_memory=shared) for way, shared in WAYS.items()}
    rows = []
    for size in SIZES:
        picture = os.urandom(size)
        for client in clients.values():
            rate(client, picture)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, client in clients.items():
                times[way] += latencies(client, picture)
                rates[way].append(rate(client, picture))
        for way in WAYS:
            p50, p90 = np.percentile(times[way], [50, 90])
            row = {"bytes": size, "way": way, "p50_ms": f"{p50:.2f}", "p90_ms": f"{p90:.2f}", "per_s": f"{np.median(rates[way]):.0f}"}
            rows.append({key: str(value) for key, value in row.items()} | {"samples": str(len(times[way]))})
    for client in clients.values():
        client.close()
    return rows


if __name__ == "__main__":
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        models = echo.write(Path(folder) / "models")
        with running("--repository", str(models), "--products", folder, "--shared-memory") as server:
            rows = measure(server.grpc)
    Console().print(table(rows), markup=False, highlight=False, soft_wrap=True)
    write_csv(RESULTS / "shared_memory.csv", [row | {"machine": machine(), "load": f"{load:.1f}"} for row in rows])
