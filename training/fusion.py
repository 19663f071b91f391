"""Last steps: the fine-tuned backbone as a delta, and how the verdict weighs its witnesses.

`python -m sightline_training.fusion witness` writes training/weights/backbone.safetensors: the tuned blocks, their reader, and what
pictures the weights know. After `sightline-export tiny`, `python -m sightline_training.fusion fit` runs the artefacts as they will be
served over the val cells, alone and with banks of 1, 4 and 16 normal training cells, and writes training/weights/fusion.json.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from scipy.optimize import minimize
from sightline_ensemble import bank as banks
from sightline_ensemble import features, hint, onnx
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.contract import DEFAULT_PROMPT
from sightline_ensemble.cutout import vision_pixels
from sightline_ensemble.defects import Frame
from sightline_ensemble.dialogue import compose
from sightline_ensemble.fusion import Evidence, Fusion, Weights, logit, mask_logit
from sightline_ensemble.lisa.engine import Engine
from sightline_ensemble.lisa.sequence import Event, Request
from sightline_ensemble.picture import crop, sam_pixels
from sightline_export.efficientnet import CHANNELS
from sightline_export.tiny import WEIGHTS
from sightline_export.tiny_witness import COMPONENTS, KNOWN_STRIDE, Foreign, KernelReader, pooled
from sightline_training.backbone import Verdict
from sightline_training.data import Cell, cells
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

SHOTS = (1, 4, 16)
ROOM = 1.5  # the most foreign val cell may be so much further away before a picture counts as unknown
RIDGE = 0.02  # of the regression, on standardised witnesses


# --- the delta --------------------------------------------------------------------------------------------------------
def known_pictures(folder: Path) -> Foreign:
    """The mean and the (slightly shrunk) covariance of the training cells' features; the limit from the val cells."""
    means = torch.from_numpy(np.load(folder / f"real_256_{KNOWN_STRIDE}.npy", mmap_mode="r").astype(np.float32).mean((2, 3)))
    train = means[: len(cells("train"))]
    covariance = torch.cov(train.T)
    covariance = 0.98 * covariance + 0.02 * covariance.trace() / len(covariance) * torch.eye(len(covariance))
    values, vectors = torch.linalg.eigh(covariance)
    foreign = Foreign()
    foreign.mean.copy_(train.mean(0))
    foreign.whiten.copy_(vectors / values.sqrt())
    farthest = foreign({KNOWN_STRIDE: means[len(train) :, :, None, None]}).max()
    foreign.whiten.div_((ROOM * farthest).sqrt())
    return foreign


def kernel_reader(folder: Path) -> KernelReader:
    """The support vector machine, on the labels of the training cells."""
    count = len(cells("train"))
    files = {key: np.load(folder / f"real_256_{key}.npy", mmap_mode="r") for key in CHANNELS}
    rows = [{key: torch.from_numpy(file[i : i + 64].astype(np.float32)) for key, file in files.items()} for i in range(0, count, 64)]
    x = torch.cat([pooled(row) for row in rows])[:count].numpy()
    mean, scale = x.mean(0), x.std(0) + 1e-6
    components = PCA(COMPONENTS, random_state=0).fit((x - mean) / scale)
    z = components.transform((x - mean) / scale)
    machine = SVC(C=10.0).fit(z, [cell.defective for cell in cells("train")])
    reader = KernelReader(len(machine.support_))
    found = {
        "mean": mean, "axes": components.components_.T / scale[:, None], "vectors": machine.support_vectors_,
        "weights": machine.dual_coef_[0], "gamma": 1 / (COMPONENTS * z.var()), "bias": machine.intercept_[0],
    }  # fmt: skip
    reader.load_state_dict({name: torch.tensor(np.asarray(value, np.float32)) for name, value in found.items()})
    return reader


def write_witness(folder: Path, out: Path) -> None:
    model = Verdict()
    model.load_state_dict(torch.load(folder / "backbone.pt", weights_only=True))
    parts = {"later": model.later, "reader": model.reader, "kernel": kernel_reader(folder), "foreign": known_pictures(folder)}
    tensors = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    tensors = {name: value if part_is_exact(name) else value.half() for name, value in tensors.items() if value.is_floating_point()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "backbone.safetensors")


def part_is_exact(name: str) -> bool:
    """Variances of half precision would change the network, and so would means that are far from 0."""
    return "running_" in name or name.startswith(("foreign.", "kernel."))


# --- the witnesses as served --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """One cell through the steps that do not depend on the question."""

    embedding: np.ndarray
    tokens: np.ndarray
    patches: np.ndarray
    picture: tuple[float, float]  # logit, foreign
    frame: Frame


class Served:
    """The artefacts of a profile, run in this process."""

    def __init__(self, repository: Path, profile: str) -> None:
        models = ("sam_encoder", "vision_encoder", "lisa_decoder")
        manifests = {name: load_manifest(repository / name, profile) for name in (*models, "lisa_engine")}
        self.runs = {name: self._run(manifests[name].path("model.onnx")) for name in models}
        self.side, self.dims = manifests["sam_encoder"].dims["image_size"], manifests["vision_encoder"].dims
        self.engine = Engine.load(manifests["lisa_engine"].folder)
        self.channels = banks.channels_of(self.dims)

    @staticmethod
    def _run(path: Path) -> onnx.Run:
        loaded = onnx.session(path)
        names = [output.name for output in loaded.get_outputs()]
        return lambda inputs: dict(zip(names, loaded.run(names, inputs), strict=True))

    def see(self, cell: Cell) -> Seen:
        image = Image.open(cell.path).convert("RGB")
        size, window = (image.height, image.width), (0, 0, image.width, image.height)
        resized = (self.side, self.side)  # cells are square
        sam = self.runs["sam_encoder"]({"sam_pixels": sam_pixels(image, self.side), "resized_size": np.array([resized], np.int32)})
        found = self.vision(crop(image, window))
        evidence = tuple(float(v) for v in found["picture_evidence"][0])
        return Seen(
            sam["image_embedding"], found["image_features"][0], found["patch_features"][0], evidence, Frame(size, resized, window, None)
        )

    def vision(self, part: np.ndarray) -> dict[str, np.ndarray]:
        return self.runs["vision_encoder"]({"vision_pixels": vision_pixels(part, self.dims)})

    def look(self, seen: Seen, words: Sequence[str]) -> Event:
        heard, done = [], threading.Event()

        def on_event(event: Event) -> None:
            heard.append(event)
            done.set()

        question = compose(DEFAULT_PROMPT, words, ()).turns[-1][1]
        self.engine.submit(Request(seen.tokens, question, look=True), on_event)
        done.wait()
        return heard[-1]

    def evidence(self, seen: Seen, normal: banks.Bank | None) -> Evidence:
        expert, words = None, []
        if normal is not None:
            raw = banks.raw_map(seen.patches, normal.features, normal.channels).reshape(self.dims["stages"][0][1:])
            score, limit = float(normal.calibration(banks.raw_score(raw.ravel()))), normal.calibration.center
            height, width = seen.frame.original
            expert, words = logit(score), [hint.sentence(score, hint.places(raw, limit, (0, 0, width, height), height, width))]
        event = self.look(seen, words)
        slots = event.seg_embeddings[None, :1]
        masks = self.runs["lisa_decoder"]({"image_embedding": seen.embedding, "seg_embeddings": slots})["low_res_masks"]
        return Evidence(logit(event.seg_probability), mask_logit(masks[0, 0], seen.frame), *seen.picture, expert)

    def bank(self, normals: Sequence[Cell]) -> banks.Bank:
        parts = [crop(image, (0, 0, image.width, image.height)) for image in (Image.open(c.path).convert("RGB") for c in normals)]
        patches = [self.vision(part)["patch_features"][0] for part in parts]
        changed = [[self.vision(copy)["patch_features"][0] for copy in features.changed_copies(part)] for part in parts]
        return banks.build(patches, self.channels, changed if len(parts) < banks.SMALL else ())

    @cached_property
    def normals(self) -> dict[str, list[Cell]]:
        order = np.random.default_rng(0).permutation(len(cells("train")))
        drawn = [cells("train")[i] for i in order]
        return {kind: [c for c in drawn if c.kind == kind and c.probability == 0] for kind in ("mono", "poly")}


# --- the regression -----------------------------------------------------------------------------------------------------
def regression(rows: Sequence[Evidence], truth: np.ndarray, names: Sequence[str], balanced: bool) -> Weights:
    """Logistic, with a small ridge and no witness counting backwards.

    Args:
        balanced: good and defective weigh the same, however many there are.
    """
    x = np.array([[getattr(row, name) for name in names] for row in rows])
    scale, y = x.std(0), truth.astype(float)
    each = np.where(truth, 0.5 / truth.mean(), 0.5 / (1 - truth.mean())) if balanced else np.ones(len(y))

    def loss(w: np.ndarray) -> float:
        z = x / scale @ w[1:] + w[0]
        return float(np.mean(each * (np.logaddexp(0, z) - y * z)) + RIDGE * np.square(w[1:]).sum() / 2)

    best = minimize(loss, np.full(1 + len(names), 0.5), bounds=[(None, None), *[(0, None)] * len(names)]).x
    return Weights(round(float(best[0]), 4), **{n: round(float(w / s), 4) for n, w, s in zip(names, best[1:], scale, strict=True)})


def fit(repository: Path, profile: str, out: Path) -> None:
    served, chosen = Served(repository, profile), cells("val")
    seen = [served.see(cell) for cell in track(chosen, "pictures")]
    truth = np.array([cell.defective for cell in chosen])
    alone = [served.evidence(one, None) for one in track(seen, "alone")]
    joined: list[Evidence] = []
    for shots in SHOTS:
        normal = {kind: served.bank(found[:shots]) for kind, found in served.normals.items()}
        joined += [served.evidence(one, normal[cell.kind]) for one, cell in track(list(zip(seen, chosen, strict=True)), f"{shots} normal")]
    fusion = Fusion(
        regression(alone, truth, ("lisa", "mask", "picture"), balanced=False),
        regression(joined, np.tile(truth, len(SHOTS)), ("lisa", "mask", "picture", "expert"), balanced=True),  # how many of a product?
    )
    out.write_text(json.dumps({"alone": asdict(fusion.alone), "joined": asdict(fusion.joined)}, indent=1) + "\n")
    print(out.read_text())
    report({"alone": alone, **{f"{k} normal": joined[i * len(chosen) : (i + 1) * len(chosen)] for i, k in enumerate(SHOTS)}}, truth, fusion)


def report(groups: Mapping[str, Sequence[Evidence]], truth: np.ndarray, fusion: Fusion) -> None:
    """AUROC of each witness and of the fused score on the cells the weights were fitted to."""
    for name, rows in groups.items():
        score = np.array([fusion.probability(row) for row in rows])
        witnesses = {n: [getattr(row, n) for row in rows] for n in ("lisa", "mask", "picture", "expert") if getattr(rows[0], n) is not None}
        found = " ".join(f"{n} {roc_auc_score(truth, values):.4f}" for n, values in witnesses.items())
        print(f"{name}: {found} | fused AUROC {roc_auc_score(truth, score):.4f} accuracy {((score >= 0.5) == truth).mean():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("witness", "fit"))
    parser.add_argument("--data", type=Path, default=Path("build/train"))
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.what == "witness":
        write_witness(arguments.data, arguments.out)
    else:
        fit(arguments.repository, arguments.profile, arguments.out / "fusion.json")


if __name__ == "__main__":
    main()
