"""`make bench`: every benchmark on one server, a summary in benchmarks/results/."""

from __future__ import annotations

import sys

import concurrency
import dialogue
import latency
import masks
import memory
import places
import quality
from harness import main

if __name__ == "__main__":
    found = (memory, latency, concurrency, dialogue, masks, places, quality)
    sys.exit(main({module.__name__: module.measure for module in found}))
