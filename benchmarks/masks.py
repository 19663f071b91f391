"""How well do LISA's masks outline a defect? Simulated ones, whose pixels are known, through the artefacts in this process.

The server answers with the mask only, so what pixel AUROC needs, the decoder's logits, is taken from the same artefacts here.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from harness import REPOSITORY, Measure, Target, main, progress, write_csv
from PIL import Image
from places import CELLS, simulated
from sightline_training.fusion import Served
from sightline_training.simulate import KINDS
from sklearn.metrics import roc_auc_score


def measure(target: Target, out: Path) -> list[Measure]:
    """Writes masks.csv, one line a simulated defect."""
    served, rows, every = Served(REPOSITORY, target.profile), [], {kind: ([], []) for kind in KINDS}
    with progress("simulated defects", CELLS) as step:
        for one in simulated(CELLS):
            file = BytesIO()
            Image.fromarray(one.pixels).save(file, "PNG")
            file.seek(0)
            seen = served.see(SimpleNamespace(path=file))  # a cell is a picture and a label; only the picture is looked at
            slots = served.look(seen, ()).seg_embeddings[None, :1]
            low = served.runs["lisa_decoder"]({"image_embedding": seen.embedding, "seg_embeddings": slots})["low_res_masks"][0, 0]
            logits = cv2.resize(low, one.mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            found = logits > 0
            iou = np.logical_and(found, one.mask).sum() / np.logical_or(found, one.mask).sum()
            rows.append(
                {
                    "kind": one.kind,
                    "cell": one.cell,
                    "pixel_auroc": round(roc_auc_score(one.mask.ravel(), logits.ravel()), 5),
                    "iou": round(iou, 4),
                }
            )
            for values, more in zip(every[one.kind], (one.mask[::2, ::2], logits[::2, ::2]), strict=True):
                values.append(more.ravel())
            step()
    served.engine.close()
    write_csv(out / "masks.csv", rows)
    return [*figures("all kinds", rows, [pair for kind in KINDS for pair in zip(*every[kind], strict=True)], True), *(
        m for kind in KINDS for m in figures(kind, [r for r in rows if r["kind"] == kind], list(zip(*every[kind], strict=True)), False)
    )]  # fmt: skip


def figures(name: str, rows: list[dict[str, object]], pixels: list[tuple[np.ndarray, np.ndarray]], barred: bool) -> list[Measure]:
    """Pixel AUROC over the pixels of all pictures together, and the mean IoU."""
    truth, logits = (np.concatenate(values) for values in zip(*pixels, strict=True))
    return [
        Measure("masks", f"pixel AUROC, {name}", float(roc_auc_score(truth, logits)), "", len(rows), ">= 0.985" if barred else ""),
        Measure("masks", f"mean IoU, {name}", float(np.mean([r["iou"] for r in rows])), "", len(rows), ">= 0.70" if barred else ""),
    ]


if __name__ == "__main__":
    sys.exit(main({"masks": measure}))
