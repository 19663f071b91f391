"""The report's JSON: the verdict's finding, LISA's sentence, what was asked, and how long everything took."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import numpy as np

from .contract import CLOCKS, SCHEMA
from .steps import as_bytes, string

Arrays = Mapping[str, np.ndarray]


def report(inputs: Arrays, profile: str, artefacts: Mapping[str, str]) -> dict[str, np.ndarray]:
    """REPORT and TEXT; see contract.MODELS["report"] for the inputs."""
    finding = json.loads(as_bytes(inputs["finding"]))
    text = as_bytes(inputs["answer"]).decode("utf-8", "replace")
    content = {
        "schema": SCHEMA,
        "verdict": finding["verdict"],
        "score": finding["score"],
        "text": text,
        "locations": finding["locations"],
        "defects": finding["defects"],
        "part": finding["part"],
        "experts": json.loads(as_bytes(inputs["experts"])),
        "size": finding["size"],
        "prompt": as_bytes(inputs["question"]).decode(),
        "tokens": int(inputs["tokens"][0]),
        "profile": profile,
        "artefacts": dict(artefacts),
    }
    content |= timings(inputs, time.monotonic_ns())
    return {"TEXT": string(text), "REPORT": string(json.dumps(content, ensure_ascii=False))}


def timings(inputs: Arrays, now_ns: int) -> dict[str, object]:
    """`timings_ms` and `time_to_mask_ms`.

    A step's time is from the end of the step before to its own end, queue and transport included, so that they add up to
    the total. A step without a clock (an engine) is part of the next one that has one; an answer from the response cache
    has the clock of the first time, so it took nothing.
    """
    ends = [(clock.name.removesuffix("_clock"), inputs[clock.name][0]) for clock in CLOCKS if clock.name in inputs]
    start = last = int(ends[0][1][0]) if ends else now_ns
    found, mask_ns = {}, now_ns
    for name, (_, end) in ends:
        now = max(int(end), last)
        found[name] = _milliseconds(now - last)
        last = now
        mask_ns = last if name == "verdict" else mask_ns
    found["report"] = _milliseconds(now_ns - last)
    found["total"] = _milliseconds(now_ns - start)
    first = int(inputs["mask_ns"][0]) if "mask_ns" in inputs else mask_ns
    return {"timings_ms": found, "time_to_mask_ms": _milliseconds(first - start)}


def _milliseconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)
