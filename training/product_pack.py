"""Last stages of `sightline_training.products`: the verdict fitted and calibrated, deltas written, and what they are worth.

The folder of deltas holds the same files as `training/weights/`; what was not trained (the decoder of boxes and points) is copied.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from sightline_export.tiny import WEIGHTS
from sightline_export.tiny_vision import TOKEN_WIDTH
from sightline_training.features import MASK_SIDE
from sightline_training.language import Student
from sightline_training.pack import calibrate, fit_seg_head, half
from sightline_training.product_data import Pictures
from sightline_training.product_language import Examples, ends
from sightline_training.product_vision import brightness, mask_logits
from sightline_training.prompts import Prompter
from sightline_training.sam import TinySam
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

STATES = 480  # training pictures that the verdict's row is fitted to
RIDGE = 0.01  # of the logistic regression, on states of unit deviation


@dataclass(frozen=True)
class Found:
    """What the trained parts say about one set: verdict's logits [N] (calibrated), mask's logits [N, M, M]."""

    verdict: np.ndarray
    masks: Tensor


def fit_verdict(student: Student, hidden: Tensor, defective: np.ndarray, no: int) -> None:
    """The `[SEG]` row becomes the "No" row plus a logistic regression's weights: their difference is the verdict's logit."""
    states = hidden.numpy().astype(np.float64)
    deviation = states.std(0) + 1e-6
    fitted = LogisticRegression(C=RIDGE, max_iter=1000).fit((states - states.mean(0)) / deviation, defective)
    llama = student.llama
    row = llama.head.weight[no].float() + torch.from_numpy(fitted.coef_[0] / deviation).float()
    llama.added_head.data[student.seg - llama.config.vocab_size] = row


def load_trained(out: Path, prompts: Prompter) -> tuple[Student, TinySam]:
    """What the stages before left."""
    student, sam = Student(prompts), TinySam().eval()
    left = student.llama.load_state_dict(torch.load(out / "language.pt", weights_only=True), strict=False)
    assert not left.unexpected_keys, left.unexpected_keys
    sam.load_state_dict(torch.load(out / "sam.pt", weights_only=True))
    return student, sam.eval()


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` rows, evenly over them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def pack(out: Path, target: Path, seed: int, states: int = STATES, weights: Path = WEIGHTS) -> None:
    """Fits, calibrates, and writes the deltas and `report.json`."""
    torch.manual_seed(seed)
    prompts = Prompter()
    student, sam = load_trained(out, prompts)
    yes, no = prompts.reply("Yes")[0], prompts.reply("No")[0]
    train, held = Examples(out, "train", prompts), Examples(out, "held", prompts)
    rows = spread(len(train.pictures), states)
    hidden, judged = ends(student, train, rows), ends(student, held, np.arange(len(held.pictures)))
    own = verdicts(student, judged, no)
    fit_verdict(student, hidden, train.pictures.defective[rows], no)
    fit_seg_head(student, hidden, torch.zeros(len(hidden), dtype=torch.long), sam.seg_prompts.detach()[:1])
    logits = verdicts(student, judged, no)
    truth = held.pictures.defective
    print(f"held back: AUROC of the verdict as trained {roc_auc_score(truth, own):.4f}, fitted {roc_auc_score(truth, logits):.4f}")
    scale, bias = balanced(logits, truth)
    write_deltas(target, student, sam, out, {"seg": student.seg, "no": no, "yes": yes, "scale": scale, "bias": bias}, weights)
    (out / "report.json").write_text(json.dumps(judge(out, student, sam, held, scale * logits + bias, no, (scale, bias)), indent=1))


def balanced(logits: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Platt's scale and bias for as many normal as defective pictures, whatever the set holds: each class repeated by the other's size."""
    each = [np.repeat(logits[truth == kind], (truth != kind).sum()) for kind in (False, True)]
    return calibrate(np.concatenate(each), np.repeat([0.0, 1.0], [len(part) for part in each]))


def verdicts(student: Student, hidden: Tensor, no: int) -> np.ndarray:
    """float32 [N], before calibration, from hidden states [N, H]."""
    with torch.inference_mode():
        return student.verdict(hidden, no).numpy()


def write_deltas(target: Path, student: Student, sam: TinySam, out: Path, verdict: dict[str, float], weights: Path) -> None:
    """The files that `sightline-export tiny --weights` reads."""
    target.mkdir(parents=True, exist_ok=True)
    for path in weights.glob("*.safetensors"):
        shutil.copy2(path, target / path.name)
    state = {name: value for name, value in sam.state_dict().items() if name != "seg_prompts"}
    save_file(half(state), target / "sam.safetensors")
    save_file(half(torch.load(out / "vision.pt", weights_only=True)), target / "vision.safetensors")
    metadata = {"verdict": json.dumps(verdict), "image_width": str(TOKEN_WIDTH)}
    save_file(half(student.trainable()), target / "language.safetensors", metadata=metadata)


def judge(
    out: Path, student: Student, sam: TinySam, held: Examples, logits: np.ndarray, no: int, platt: tuple[float, float]
) -> list[dict[str, object]]:
    """Figures of the held back simulated pictures and, if the folder has a test part, of that; by class and of all."""
    sets = {"held back": (held.pictures, Found(logits, mask_logits(sam, held.pictures, np.arange(len(held.pictures)))))}
    if (out / "test.json").exists():
        test = Examples(out, "test", held.prompts)
        rows = np.arange(len(test.pictures))
        found = Found(platt[0] * verdicts(student, ends(student, test, rows), no) + platt[1], mask_logits(sam, test.pictures, rows))
        sets["test part"] = test.pictures, found
    table: list[dict[str, object]] = []
    for name, (pictures, found) in sets.items():
        products = np.array([row.product for row in pictures.rows])
        each = sorted(set(products))
        for product in [*each, "all"] if len(each) > 1 else each:
            chosen = np.flatnonzero((products == product) | (product == "all"))
            table.append({"pictures": name, "class": product, **figures(pictures, found, chosen)})
    return table


def figures(pictures: Pictures, found: Found, rows: np.ndarray) -> dict[str, object]:
    """AUROC of verdict and of the mask's brightest part, accuracy, pixel AUROC and mean IoU of some pictures; None where undefined."""
    truth, verdict = pictures.defective[rows], found.verdict[rows]
    known = np.array([pictures.rows[i].truth for i in rows])
    masks, logits = pictures.masks[rows].any(1)[known], found.masks[rows][torch.from_numpy(known)]
    both, there = truth.any() and not truth.all(), masks.any((1, 2))
    seen = logits.numpy() > 0
    overlap, union = (seen & masks).sum((1, 2))[there], (seen | masks).sum((1, 2))[there]
    return {
        "count": len(rows),
        "accuracy": float(((verdict >= 0) == truth).mean()),
        "verdict AUROC": float(roc_auc_score(truth, verdict)) if both else None,
        "mask AUROC": float(roc_auc_score(truth, brightness(found.masks[rows]))) if both else None,
        "pixel AUROC": float(roc_auc_score(masks.ravel(), logits.flatten().numpy())) if there.any() else None,
        "IoU": float((overlap / union).mean()) if there.any() else None,
    }


def show(out: Path, console: Console) -> None:
    """Prints the report."""
    rows = json.loads((out / "report.json").read_text())
    table = Table(*rows[0], title=f"masks compared on {MASK_SIDE} x {MASK_SIDE} cells; IoU of defective pictures, whatever the verdict")
    for row in rows:
        table.add_row(*("-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
