"""The verdict and everything that must agree with it. The only place that knows the report's JSON.

Where the checkpoint has a verdict (`seg_probability` >= 0) it decides: 0.5 or more is an anomaly and its mask is never
empty, less is normal and has no mask. Elsewhere the masks decide, every pixel of them, as with the released LISA.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .contract import CLOCKS, SCHEMA
from .defects import Found, Frame, describe, find, part_frame
from .errors import INTERNAL, RequestError
from .picture import window_of
from .regions import rle
from .steps import as_bytes, string

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """score >= 0.5 exactly when `anomaly` exactly when `found.mask` is not empty."""

    anomaly: bool
    score: float
    found: Found


def report(inputs: Arrays, wanted: frozenset[str], profile: str, artefacts: Mapping[str, str]) -> dict[str, np.ndarray]:
    """REPORT, TEXT, SCORE and, if wanted, MASK uint8 [H, W]; see contract.MODELS["report"] for the inputs."""
    original, resized = (tuple(inputs[name].reshape(-1).tolist()) for name in ("original_size", "resized_size"))
    box = inputs["part_box"]
    window = window_of(box, *original)
    frame, part = part_frame(inputs["part_masks"][0, 0] if len(box) else None, original, resized, window)
    verdict = decide(inputs, frame)
    mask_ns = time.monotonic_ns()
    defects = describe(verdict.found, frame)
    text = as_bytes(inputs["answer"]).decode("utf-8", "replace")
    content = {
        "schema": SCHEMA,
        "verdict": "anomaly" if verdict.anomaly else "normal",
        "score": verdict.score,
        "text": text,
        "locations": list(dict.fromkeys(defect["location"] for defect in defects)),
        "defects": defects,
        "part": None if part is None else _part(part, box[0], float(inputs["part_ious"].reshape(-1)[0]), window, original),
        "experts": json.loads(as_bytes(inputs["experts"])),
        "size": list(original),
        "prompt": as_bytes(inputs["question"]).decode(),
        "tokens": int(inputs["tokens"][0]),
        "profile": profile,
        "artefacts": dict(artefacts),
    }
    outputs = {"TEXT": string(text), "SCORE": np.array([verdict.score], np.float32)}
    if "MASK" in wanted:
        outputs["MASK"] = _whole(verdict.found.mask, window, original)
    content |= timings(inputs, mask_ns, time.monotonic_ns())
    return outputs | {"REPORT": string(json.dumps(content, ensure_ascii=False))}


def decide(inputs: Arrays, frame: Frame) -> Verdict:
    """The verdict, its score 0..1 (four digits, never rounded across 0.5) and the defects' mask."""
    probability, slots = float(inputs["seg_probability"][0]), inputs["defect_masks"][0][: int(inputs["seg_count"][0])]
    if not np.isfinite(probability) or not np.isfinite(slots).all():
        raise RequestError(INTERNAL, "report: the mask decoder or the language model gave numbers that are not finite")
    if probability >= 0.5 and not len(slots):
        raise RequestError(INTERNAL, "report: the language model says anomaly but gave no [SEG]")
    if 0 <= probability < 0.5:
        slots = slots[:0]
    found = find(slots, frame, never_empty=probability >= 0.5, specks=probability < 0)
    anomaly = bool(found.mask.any())
    if probability >= 0:
        score = probability
    else:
        score = float(found.share.sum(dtype=np.float64) / found.mask.sum(dtype=np.int64)) if anomaly else found.peak
    return Verdict(anomaly, max(round(score, 4), 0.5) if anomaly else min(round(score, 4), 0.4999), found)


def _part(mask: np.ndarray, box: np.ndarray, iou: float, window: tuple, original: tuple) -> dict[str, object]:
    return {"box": [round(float(v), 3) for v in box], "iou": round(iou, 4), "rle": rle(mask, window[0], window[1], *original)}


def _whole(mask: np.ndarray, window: tuple, original: tuple) -> np.ndarray:
    if mask.shape == original:
        return mask
    whole = np.zeros(original, np.uint8)
    whole[window[1] : window[3], window[0] : window[2]] = mask
    return whole


def timings(inputs: Arrays, mask_ns: int, now_ns: int) -> dict[str, object]:
    """`timings_ms` and `time_to_mask_ms`.

    A step's time is from the end of the step before to its own end, queue and transport included, so that they add up to
    the total. A step without a clock (an engine) is part of the next one that has one.
    """
    ends = [(clock.name.removesuffix("_clock"), inputs[clock.name][0]) for clock in CLOCKS if clock.name in inputs]
    start = last = int(ends[0][1][0]) if ends else mask_ns
    found = {}
    for name, (_, end) in ends:
        found[name] = _milliseconds(int(end) - last)
        last = int(end)
    found["report"] = _milliseconds(now_ns - last)
    found["total"] = _milliseconds(now_ns - start)
    first = int(inputs["mask_ns"][0]) if "mask_ns" in inputs else mask_ns
    return {"timings_ms": found, "time_to_mask_ms": _milliseconds(first - start)}


def _milliseconds(nanoseconds: int) -> float:
    return round(nanoseconds / 1e6, 3)
