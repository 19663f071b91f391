"""`make bench`: every benchmark on one server, a summary in benchmarks/results/."""

from __future__ import annotations

import sys

import concurrency
import dialogue
import latency
import memory
import quality
from harness import main

if __name__ == "__main__":
    found = {"memory": memory, "latency": latency, "concurrency": concurrency, "dialogue": dialogue, "quality": quality}
    sys.exit(main({name: module.measure for name, module in found.items()}))
