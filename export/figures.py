"""What a form of storing the weights costs: one line of figures, from the original's answers and its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from .streams import Outcome, Run, Sample

Masks = Callable[[int, Tensor], np.ndarray]
"""number of a picture, `[SEG]` vectors [n, E] -> bool [n, M, M]"""


@dataclass(frozen=True)
class Figures:
    """One form beside the original, over all held-out samples. Errors are relative to the original's own size."""

    logit_error: float
    agreement: float  # share of tokens that are the most likely one of both
    perplexity: float  # of the samples without a picture
    seg_error: float
    mask_iou: float

    @property
    def loss(self) -> float:
        """What methods are chosen by: text and masks count alike."""
        return self.logit_error + self.seg_error


def measure(run: Run, masks: Masks) -> dict[str, Figures]:
    """By form, and the original's own under "original"."""
    original = run.outcomes()
    return {"original": figures(run, original, original, masks)} | {
        form: figures(run, original, run.outcomes(form), masks) for form in run.streams
    }


def figures(run: Run, original: list[Outcome], found: list[Outcome], masks: Masks) -> Figures:
    samples = list(zip(run.held_out, original, found, strict=True))
    expected, logits = (torch.cat([pair[i].logits for pair in samples]) for i in (1, 2))
    return Figures(
        _relative(expected - expected.mean(-1, keepdim=True), logits - expected),
        float((expected.argmax(-1) == logits.argmax(-1)).float().mean()),
        perplexity((sample, o) for sample, _, o in samples if sample.picture is None),
        _relative(*_segs(samples)),
        float(np.mean([iou for sample, a, b in samples if len(a.segs) for iou in _ious(masks, sample, a.segs, b.segs)])),
    )


def perplexity(pairs: Iterator[tuple[Sample, Outcome]]) -> float:
    losses = [F.cross_entropy(o.logits, torch.tensor(s.ids[s.start :]), reduction="none") for s, o in pairs]
    return float(torch.cat(losses).mean().exp())


def _segs(samples: list[tuple[Sample, Outcome, Outcome]]) -> tuple[Tensor, Tensor]:
    """The original's `[SEG]` vectors, and how far the others are from them."""
    expected, found = (torch.cat([pair[i].segs for pair in samples]) for i in (1, 2))
    return expected, found - expected


def _relative(size: Tensor, away: Tensor) -> float:
    return float(away.norm() / size.norm())


def _ious(masks: Masks, sample: Sample, expected: Tensor, found: Tensor) -> Iterator[float]:
    assert sample.picture is not None, "a [SEG] needs a picture"
    for a, b in zip(masks(sample.picture, expected), masks(sample.picture, found), strict=True):
        union = (a | b).sum()
        yield float((a & b).sum() / union) if union else 1.0


def table(title: str, found: dict[str, Figures], chosen: str | None = None) -> Table:
    """A line for each form."""
    shown = Table("linear layers", "logit error", "tokens agree", "perplexity", "[SEG] error", "mask IoU", "", title=title)
    for form, f in found.items():
        mark = "chosen" if form == chosen else ""
        shown.add_row(
            form, f"{f.logit_error:.4f}", f"{f.agreement:.4f}", f"{f.perplexity:.4f}", f"{f.seg_error:.4f}", f"{f.mask_iou:.4f}", mark
        )
    return shown


def as_parity(found: dict[str, Figures]) -> dict[str, dict[str, float]]:
    """What the manifest keeps, four digits each."""
    return {form: {name: float(f"{value:.4g}") for name, value in asdict(figure).items()} for form, figure in found.items()}
