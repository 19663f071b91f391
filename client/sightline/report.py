"""The report as typed, frozen data, and what a stream and `segment` return."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from . import rle
from .errors import ServerFault

SCHEMA = "sightline/1"
Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in pixels of the original picture."""


@dataclass(frozen=True)
class Rle:
    """COCO's compressed run-length encoding; `size` is (height, width)."""

    size: tuple[int, int]
    counts: str

    @cached_property
    def mask(self) -> Pixels:
        """UINT8 [H, W] of 0 and 1 at the picture's size."""
        return rle.decode(self.size, self.counts)


@dataclass(frozen=True)
class Defect:
    """One defect. `area` in pixels, `score` 0 to 1, `location` in thirds of the picture, for instance "bottom left"."""

    box: Box
    area: int
    score: float
    location: str
    rle: Rle

    @property
    def mask(self) -> Pixels:
        return self.rle.mask


@dataclass(frozen=True)
class Part:
    """The part that SAM cut out of the given box; `iou` is SAM's predicted quality, 0 to 1."""

    box: Box
    iou: float
    rle: Rle

    @property
    def mask(self) -> Pixels:
        return self.rle.mask


@dataclass(frozen=True)
class Expert:
    """What a few-shot expert said before LISA was asked. `references`: normal pictures it compared with."""

    name: str
    score: float
    text: str
    references: int


@dataclass(frozen=True)
class Report:
    """One inspection. `verdict` is "normal" or "anomaly" (exactly when `score` >= 0.5); `size` is (height, width); times in ms."""

    verdict: str
    score: float
    text: str
    locations: tuple[str, ...]
    defects: tuple[Defect, ...]
    part: Part | None
    experts: tuple[Expert, ...]
    size: tuple[int, int]
    prompt: str
    tokens: int
    profile: str
    artefacts: dict[str, str]
    timings_ms: dict[str, float]
    time_to_mask_ms: float
    raw: dict[str, Any] = field(repr=False, compare=False)
    heatmap: Pixels | None = field(default=None, repr=False, compare=False)
    """The expert's map, UINT8 [H', W'], 0 to 255 = 0 to 1, longest side at most 256; None where no expert spoke."""
    request_id: str = field(default="", compare=False)
    """The request's name, in the server's audit and traces too."""

    @property
    def anomaly(self) -> bool:
        return self.verdict == "anomaly"

    @property
    def score_text(self) -> str:
        """The score with two digits, never rounded across the verdict's threshold."""
        return f"{self.score if self.anomaly else min(self.score, 0.494):.2f}"

    @cached_property
    def mask(self) -> Pixels:
        """Union of the defect masks, UINT8 [H, W] of 0 and 1 at the picture's size."""
        union = np.zeros(self.size, np.uint8)
        for defect in self.defects:
            union |= defect.mask
        return union

    def json(self) -> str:
        """The server's report on one line."""
        return json.dumps(self.raw, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Verdict:
    """First event of a stream: verdict and mask are final, the sentence is still being written. `text` is its beginning."""

    report: Report
    text: str


@dataclass(frozen=True)
class Piece:
    """The next piece of the sentence."""

    text: str


@dataclass(frozen=True)
class Complete:
    """Last event of a stream: the complete report."""

    report: Report


Event = Verdict | Piece | Complete


@dataclass(frozen=True)
class Segment:
    """SAM's answer: `mask` UINT8 [H, W] of 0 and 1, `iou` its predicted quality, `cutout` PNG bytes of the part without background."""

    mask: Pixels = field(repr=False)
    iou: float
    cutout: bytes = field(repr=False)
    request_id: str = field(default="", compare=False)


def parse(text: str | bytes, heatmap: Pixels | None = None) -> Report:
    """The report of a server's JSON. ServerFault where it is not one of this contract, so that it is never taken for a verdict."""
    try:
        raw = json.loads(text)
        if raw["schema"] != SCHEMA:
            raise ValueError(f"its schema is {raw['schema']!r}, expected {SCHEMA!r}")
        report = _build(raw, heatmap if heatmap is not None and heatmap.size else None)
        _check(report)
        return report
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ServerFault(f"the server's answer is not a report: {detail}", "INTERNAL") from error


def _check(report: Report) -> None:
    if report.verdict not in ("normal", "anomaly"):
        raise ValueError(f"its verdict is {report.verdict!r}")
    if not math.isfinite(report.score) or (report.score >= 0.5) != report.anomaly or bool(report.defects) != report.anomaly:
        raise ValueError(f"its verdict {report.verdict!r} contradicts score {report.score} with {len(report.defects)} defects")
    if any(region.rle.size != report.size for region in (*report.defects, *((report.part,) if report.part else ()))):
        raise ValueError("a mask has another size than the picture")


def _build(raw: dict[str, Any], heatmap: Pixels | None) -> Report:
    part = raw["part"]
    return Report(
        verdict=raw["verdict"],
        score=float(raw["score"]),
        text=str(raw["text"]),
        locations=tuple(raw["locations"]),
        defects=tuple(Defect(_box(d), int(d["area"]), float(d["score"]), d["location"], _rle(d)) for d in raw["defects"]),
        part=None if part is None else Part(_box(part), float(part["iou"]), _rle(part)),
        experts=tuple(Expert(e["name"], float(e["score"]), e["text"], int(e["references"])) for e in raw["experts"]),
        size=_size(raw["size"]),
        prompt=str(raw["prompt"]),
        tokens=int(raw["tokens"]),
        profile=str(raw["profile"]),
        artefacts=dict(raw["artefacts"]),
        timings_ms=dict(raw["timings_ms"]),
        time_to_mask_ms=float(raw["time_to_mask_ms"]),
        raw=raw,
        heatmap=heatmap,
    )


def _box(region: dict[str, Any]) -> Box:
    x0, y0, x1, y1 = map(float, region["box"])
    return x0, y0, x1, y1


def _size(pair: list[int]) -> tuple[int, int]:
    height, width = map(int, pair)
    return height, width


def _rle(region: dict[str, Any]) -> Rle:
    return Rle(_size(region["rle"]["size"]), region["rle"]["counts"])
