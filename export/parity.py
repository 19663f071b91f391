"""The parity gate: an original and an artefact answer the same prompts on the same real pictures; below its bar none is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from rich.table import Table
from sightline_ensemble.upsample import upsampler

from .checkpoint import Sam
from .graphs import SamDecoder
from .pictures import PROMPTS, Picture


@dataclass(frozen=True)
class Bar:
    """What an artefact must reach over all pictures; `max_error` is a share of the original embedding's range."""

    max_error: float
    mean_iou: float
    min_iou: float

    def share(self, part: float) -> Bar:
        """The bar for something that may use only a part of the masks' error."""
        return Bar(self.max_error, 1 - part * (1 - self.mean_iou), 1 - part * (1 - self.min_iou))


BARS = {"fp32": Bar(2e-4, 0.999, 0.999), "fp16": Bar(np.inf, 0.99, 0.97), "bf16": Bar(np.inf, 0.99, 0.97)}


class BelowBar(RuntimeError):
    """An artefact differs too much from its original."""


@dataclass(frozen=True)
class Answer:
    """image_embedding float32 [1, 256, G, G]; low_res_masks by kind of prompt, float32 [M, M] each."""

    image_embedding: np.ndarray
    low_res_masks: dict[str, np.ndarray]

    @property
    def finite(self) -> bool:
        return all(np.isfinite(array).all() for array in (self.image_embedding, *self.low_res_masks.values()))


Encode = Callable[[Picture], np.ndarray]
Decode = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""image_embedding, point_coords [1, 1, N, 2], point_labels [1, 1, N] -> low_res_masks [1, 1, M, M]."""


def answer(picture: Picture, encode: Encode, decode: Decode, side: int) -> Answer:
    embedding = encode(picture)
    return Answer(embedding, {kind: decode(embedding, *picture.prompt(kind, side))[0, 0] for kind in PROMPTS})


def original(sam: Sam) -> tuple[Encode, Decode]:
    """The checkpoint itself in torch, fp32."""
    decoder = SamDecoder(sam.prompts, sam.decoder, sam.size.grid, sam.size.image_size).eval()

    @torch.inference_mode()
    def encode(picture: Picture) -> np.ndarray:
        return sam.encoder(torch.from_numpy(picture.sam_pixels), torch.tensor([picture.resized], dtype=torch.int32)).numpy()

    @torch.inference_mode()
    def decode(embedding: np.ndarray, coords: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return decoder(*map(torch.from_numpy, (embedding, coords, labels)))[0].numpy()

    return encode, decode


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime, on all cores."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # an arena grows by doubling: beyond 15 GB for a twin of vit_b, and keeps it
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # minutes of work: others may want the cores between
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def encoder_of(path: Path) -> Encode:
    runner = session(path)
    return lambda p: runner.run(None, {"sam_pixels": p.sam_pixels, "resized_size": np.array([p.resized], np.int32)})[0]


def decoder_of(path: Path) -> Decode:
    runner = session(path)
    names = ("image_embedding", "point_coords", "point_labels")
    return lambda *inputs: runner.run(["low_res_masks"], dict(zip(names, inputs, strict=True)))[0]


@dataclass(frozen=True)
class Row:
    """One picture in one precision: a line of the CSV. `kept`: the parts in fp32."""

    precision: str
    kept: str
    picture: str
    width: int
    height: int
    cosine: float
    max_error: float  # share of the original's range
    iou_box: float
    iou_points: float
    iou_both: float
    finite: bool

    @property
    def ious(self) -> tuple[float, float, float]:
        return self.iou_box, self.iou_points, self.iou_both


def compare(picture: Picture, expected: Answer, found: Answer, precision: str, kept: str) -> Row:
    a, b = expected.image_embedding.astype(np.float64), found.image_embedding.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        cosine = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
        error = float(np.abs(a - b).max() / np.ptp(a))
    ious = [mask_iou(picture, expected.low_res_masks[kind], found.low_res_masks[kind]) for kind in PROMPTS]
    return Row(precision, kept, picture.name, picture.width, picture.height, cosine, error, *ious, found.finite)


def mask_iou(picture: Picture, expected: np.ndarray, found: np.ndarray) -> float:
    """Of two masks at the picture's own size; 1 where both are empty, 0 where one is not finite."""
    if not np.isfinite(found).all():
        return 0.0
    masks = []
    for low_res in (expected, found):
        rows = upsampler(low_res, picture.resized, (picture.height, picture.width), np.arange(picture.width))
        masks.append(rows(np.arange(picture.height)) > 0)
    union = (masks[0] | masks[1]).sum()
    return float((masks[0] & masks[1]).sum() / union) if union else 1.0


@dataclass(frozen=True)
class Summary:
    """What the gate decides by, and the manifest keeps."""

    pictures: int
    cosine: float  # the smallest
    max_error: float
    mean_iou: float
    min_iou: float
    finite: bool

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Summary:
        ious = [iou for row in rows for iou in row.ious]
        return cls(
            len(rows), min(r.cosine for r in rows), max(r.max_error for r in rows), float(np.mean(ious)), min(ious),
            all(r.finite for r in rows),
        )  # fmt: skip

    def reaches(self, bar: Bar) -> bool:
        return self.finite and self.max_error <= bar.max_error and self.mean_iou >= bar.mean_iou and self.min_iou >= bar.min_iou


def table(title: str, rows: Sequence[Row]) -> Table:
    """A line for each precision and choice of kept parts."""
    shown = Table("precision", "kept in fp32", "pictures", "cosine", "max error", "IoU mean", "IoU min", "bar", title=title)
    for precision, kept in dict.fromkeys((row.precision, row.kept) for row in rows):
        s, bar = Summary.of([row for row in rows if (row.precision, row.kept) == (precision, kept)]), BARS[precision]
        verdict = "reached" if s.reaches(bar) else "below" if s.finite else "NaN or infinity"
        shown.add_row(
            precision, kept, str(s.pictures), f"{s.cosine:.6f}", f"{s.max_error:.1e}", f"{s.mean_iou:.4f}", f"{s.min_iou:.4f}", verdict
        )
    return shown
