"""The figures of `evaluate.py`, for one class and one setting.

AUROC, AP and F1-max are scikit-learn's. The expert's map has 256 levels, so that pixels are counted by level: AUROC over all of
them is exact without keeping a map. AUPRO is MVTec's (Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021,
section 5.2; regions are 8-connected as in their evaluation code): the mean over the regions of all ground truths of the share that
is found, as a function of the share of the normal pixels that are marked, integrated up to 0.3 and divided by 0.3.
"Yes" and "No" are counted as AnomalyGPT's test scripts do (arXiv 2308.15366): as words contained in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, balanced_accuracy_score, precision_recall_curve, roc_auc_score, roc_curve

LEVELS = 256
AUPRO_LIMIT = 0.3


@dataclass
class Pixels:
    """Pixels of the maps by their level 0 to 255: normal ones, defective ones, and a row for each region of a ground truth."""

    normal: np.ndarray = field(default_factory=lambda: np.zeros(LEVELS, np.int64))
    defective: np.ndarray = field(default_factory=lambda: np.zeros(LEVELS, np.int64))
    regions: list[np.ndarray] = field(default_factory=list)

    def add(self, heatmap: np.ndarray, truth: np.ndarray) -> None:
        """A picture's map, uint8 [H', W'], and its ground truth of any size (0: normal)."""
        truth = resized(truth, heatmap.shape)
        self.normal += levels(heatmap[~truth])
        self.defective += levels(heatmap[truth])
        labels, count = ndimage.label(truth, structure=np.ones((3, 3), int))
        self.regions += [levels(heatmap[labels == label]) for label in range(1, count + 1)]

    def auroc(self) -> float | None:
        """None where no pixel is defective, or all are."""
        if not self.normal.any() or not self.defective.any():
            return None
        truth, level = np.repeat([0, 1], LEVELS), np.tile(np.arange(LEVELS), 2)
        return float(roc_auc_score(truth, level, sample_weight=np.concatenate([self.normal, self.defective])))

    def aupro(self, limit: float = AUPRO_LIMIT) -> float | None:
        if not self.normal.any() or not self.regions:
            return None
        shares = np.mean([region / region.sum() for region in self.regions], axis=0)
        marked, found = (np.concatenate([[0.0], counts[::-1].cumsum()]) for counts in (self.normal / self.normal.sum(), shares))
        inside = marked < limit
        marked, found = np.append(marked[inside], limit), np.append(found[inside], np.interp(limit, marked, found))
        return float(auc(marked, found) / limit)


def levels(values: np.ndarray) -> np.ndarray:
    return np.bincount(values, minlength=LEVELS)


def resized(truth: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The ground truth as bool [H', W'] by the nearest pixel; one that would vanish keeps every pixel it touches."""
    whole = truth > 0
    found = cv2.resize(whole.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    if whole.any() and not found.any():
        found = cv2.resize(whole.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) > 0
    return found


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Of a picture with a defect. mask, truth: [H, W], 0: normal."""
    one, other = mask > 0, truth > 0
    return float((one & other).sum() / (one | other).sum())


def images(defective: Sequence[bool], score: Sequence[float]) -> dict[str, float]:
    """Figures of a score 0 to 1 whose decision is at 0.5."""
    truth, value = np.asarray(defective, bool), np.asarray(score, np.float64)
    decided = value >= 0.5
    return {
        "AUROC": float(roc_auc_score(truth, value)),
        "AP": float(average_precision_score(truth, value)),
        "F1-max": f1_max(truth, value),
        "accuracy": float((decided == truth).mean()),
        "balanced": float(balanced_accuracy_score(truth, decided)),
        "best balanced": best_balanced(truth, value),
    }


def f1_max(truth: np.ndarray, value: np.ndarray) -> float:
    """The best F1 of any threshold."""
    precision, recall, _ = precision_recall_curve(truth, value)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def best_balanced(truth: np.ndarray, value: np.ndarray) -> float:
    """The best balanced accuracy of any threshold."""
    wrong, right, _ = roc_curve(truth, value)
    return float(np.max(1 + right - wrong) / 2)


def said_right(text: str, defective: bool) -> bool:
    return ("Yes" if defective else "No") in text


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1; 0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
