"""The verdict and everything that must agree with it: score, masks, defects and their places.

Where the checkpoint has a verdict (`seg_probability` >= 0) the fused probability decides: 0.5 or more is an anomaly and its mask is
never empty, less is normal and has no mask. Elsewhere the masks decide, every pixel of them, as with the released LISA.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from .defects import Found, Frame, describe, find, part_frame
from .errors import INTERNAL, RequestError
from .fusion import Evidence, Fusion, expert_decides, logit, mask_logit
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


def verdict(inputs: Arrays, wanted: frozenset[str], fusion: Fusion | None) -> dict[str, np.ndarray]:
    """finding, SCORE and, if wanted, MASK uint8 [H, W]; see contract.MODELS["verdict"] for the inputs."""
    original, resized = (tuple(inputs[name].reshape(-1).tolist()) for name in ("original_size", "resized_size"))
    box = inputs["part_box"]
    window = window_of(box, *original)
    frame, part = part_frame(inputs["part_masks"][0, 0] if len(box) else None, original, resized, window)
    decided = decide(inputs, frame, fusion)
    defects = describe(decided.found, frame)
    finding = {
        "verdict": "anomaly" if decided.anomaly else "normal",
        "score": decided.score,
        "locations": list(dict.fromkeys(defect["location"] for defect in defects)),
        "defects": defects,
        "part": None if part is None else _part(part, box[0], float(inputs["part_ious"].reshape(-1)[0]), window, original),
        "size": list(original),
        "explain": bool(inputs["seg_probability"][0] >= 0),
    }
    outputs = {"finding": string(json.dumps(finding)), "SCORE": np.array([decided.score], np.float32)}
    if "MASK" in wanted:
        outputs["MASK"] = _whole(decided.found.mask, window, original)
    return outputs


def unexplained(finding: np.ndarray, answer: np.ndarray) -> bool:
    """Whether LISA has only looked so far: there is a verdict, and no sentence yet."""
    return json.loads(as_bytes(finding) or b"{}").get("explain", False) and not as_bytes(answer)


def decide(inputs: Arrays, frame: Frame, fusion: Fusion | None = None) -> Verdict:
    """The verdict, its score 0..1 (four digits, never rounded across 0.5) and the defects' mask."""
    probability, slots = float(inputs["seg_probability"][0]), inputs["defect_masks"][0][: int(inputs["seg_count"][0])]
    if not np.isfinite(probability) or not np.isfinite(slots).all():
        raise RequestError(INTERNAL, "verdict: the mask decoder or the language model gave numbers that are not finite")
    if fusion is not None and probability >= 0 and len(slots):
        witnesses = evidence(inputs, probability, slots[0], frame)
        probability = fusion.probability(witnesses)
        slots = expert_slots(inputs["expert_map"], frame, slots.shape[-1]) if expert_decides(witnesses) else slots
    if probability >= 0.5 and not len(slots):
        raise RequestError(INTERNAL, "verdict: the language model says anomaly but gave no [SEG]")
    if 0 <= probability < 0.5:
        slots = slots[:0]
    found = find(slots, frame, never_empty=probability >= 0.5, specks=probability < 0)
    anomaly = bool(found.mask.any())
    if probability >= 0:
        score = probability
    else:
        score = float(found.share.sum(dtype=np.float64) / found.mask.sum(dtype=np.int64)) if anomaly else found.peak
    return Verdict(anomaly, max(round(score, 4), 0.5) if anomaly else min(round(score, 4), 0.4999), found)


def evidence(inputs: Arrays, probability: float, low_res: np.ndarray, frame: Frame) -> Evidence:
    """What each witness says."""
    picture, foreign = (float(v) for v in inputs["picture_evidence"].reshape(-1))
    if not np.isfinite([picture, foreign]).all():
        raise RequestError(INTERNAL, "verdict: the vision encoder gave numbers that are not finite")
    experts = json.loads(as_bytes(inputs["experts"]) or b"[]")
    expert = logit(experts[0]["score"]) if experts else None
    return Evidence(logit(probability), mask_logit(low_res, frame), picture, foreign, expert)


def expert_slots(heatmap: np.ndarray, frame: Frame, side: int) -> np.ndarray:
    """The expert's map uint8 [H', W'] as one slot of mask logits float32 [1, M, M] in the frame of SAM's input."""
    height, width = (max(round(v * side / max(frame.resized)), 1) for v in frame.resized)
    share = cv2.resize(heatmap.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR).clip(0.5, 254.5) / 255
    slot = np.full((1, side, side), -6.0, np.float32)
    slot[0, :height, :width] = np.log(share / (1 - share))
    return slot


def _part(mask: np.ndarray, box: np.ndarray, iou: float, window: tuple, original: tuple) -> dict[str, object]:
    return {"box": [round(float(v), 3) for v in box], "iou": round(iou, 4), "rle": rle(mask, window[0], window[1], *original)}


def _whole(mask: np.ndarray, window: tuple, original: tuple) -> np.ndarray:
    if mask.shape == original:
        return mask
    whole = np.zeros(original, np.uint8)
    whole[window[1] : window[3], window[0] : window[2]] = mask
    return whole
