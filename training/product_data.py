"""First stage of `sightline_training.products`: defects on the user's normal pictures, and what the frozen encoders see of them.

Three sets: `train` and `held` (both simulated; of different normal pictures), `test` (the folder's own test part, for the report only).
Files of a set: `<set>_256_<stride>.npy` (the token neck's pyramid), `<set>_embedding.npy` (SAM's, from the shipped neck),
`<set>_masks.npy` (packed bool [N, kinds, M, M] in SAM's frame), `<set>_squashed.npy` (the same, 64 x 64 in the vision encoder's).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rich.progress import track
from sightline_export.efficientnet import load_backbone
from sightline_export.tiny import SAM_SIDE, WEIGHTS, load_neck
from sightline_export.tiny_graphs import SamEncoder
from sightline_training import folder as folders
from sightline_training.blemishes import KINDS, Made, blemish, varied
from sightline_training.features import VISION_SIDE, low_res, sam_pixels, vision_pixels
from sightline_training.folder import Folder, Shown
from sightline_training.nsa import Normal, Rules, normals
from torch import Tensor

BATCH, MAP_SIDE = 8, 64
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-1, -2))


@dataclass(frozen=True)
class Counts:
    """Pictures with simulated defects; half as many without are added."""

    train: int
    held: int

    @staticmethod
    def of(train: int, held: int) -> Counts:
        """For so many normal pictures to train on, and held back."""
        return Counts(min(max(6 * train, 360), 960), min(max(4 * held, 96), 240))


@dataclass(frozen=True)
class Row:
    """What a picture of a set is."""

    product: str
    defect: str
    defective: bool
    truth: bool = True  # whether the masks are known


class Simulator:
    """Draws pictures of one part of the normal ones, class by class in turn, so that every class counts the same."""

    def __init__(self, shown: Iterable[Shown]) -> None:
        self.classes: dict[str, tuple[list[Normal], Rules]] = {}
        shown = list(shown)
        for product in sorted({one.product for one in shown}):
            self.classes[product] = normals([folders.pixels(one.path) for one in shown if one.product == product])

    def picture(self, i: int, defective: bool, rng: np.random.Generator) -> tuple[Row, Made]:
        product = list(self.classes)[i % len(self.classes)]
        pictures, rules = self.classes[product]
        number = int(rng.integers(len(pictures)))
        target = varied(pictures[number], rng)
        if not defective:
            return Row(product, folders.GOOD, False), Made(target.pixels, np.zeros((len(KINDS), *target.foreground.shape), bool))
        others = [other for k, other in enumerate(pictures) if k != number] or pictures
        made = blemish(target, others, rules, rng)
        return Row(product, KINDS[int(made.masks.any((1, 2)).argmax())], True), made


def tested(shown: Shown) -> tuple[Row, Made]:
    """A picture of the folder's test part; its ground truth lies under the first kind, which means nothing here."""
    pixels = folders.pixels(shown.path)
    masks = np.zeros((len(KINDS), *pixels.shape[:2]), bool)
    masks[0] = folders.truth(shown, pixels.shape[:2])
    return Row(shown.product, shown.defect, shown.defective, bool(masks.any()) == shown.defective), Made(pixels, masks)


def squashed(mask: np.ndarray) -> np.ndarray:
    """bool [H, W] -> bool [64, 64]."""
    return cv2.resize(mask.astype(np.float32), (MAP_SIDE, MAP_SIDE), interpolation=cv2.INTER_AREA) >= 0.25


class Encoders:
    """The frozen encoders: pictures [B] -> the pyramid at 256, and SAM's embedding at 512."""

    def __init__(self, weights: Path) -> None:
        self.backbone = load_backbone()
        self.sam = SamEncoder(self.backbone, load_neck(weights / "sam.safetensors"), SAM_SIDE).eval()

    @torch.inference_mode()
    def __call__(self, pictures: list[np.ndarray]) -> dict[str, Tensor]:
        small = np.stack([vision_pixels(pixels) for pixels in pictures])
        framed = [sam_pixels(pixels) for pixels in pictures]
        sizes = [[int(side * scale + 0.5) for side in pixels.shape[:2]] for pixels, (_, scale) in zip(pictures, framed, strict=True)]
        large = torch.from_numpy(np.stack([square for square, _ in framed])).permute(0, 3, 1, 2)
        pyramid = self.backbone(torch.from_numpy(small).permute(0, 3, 1, 2).float())
        found = {f"{VISION_SIDE}_{key}": value for key, value in pyramid.items()}
        return found | {"embedding": self.sam(large, torch.tensor(sizes, dtype=torch.int32))}


def write_set(out: Path, name: str, draw: Callable[[int], tuple[Row, Made]], count: int, encoders: Encoders) -> None:
    """Draws `count` pictures, encodes them, writes the files of one set."""
    rows: list[Row] = []
    arrays: dict[str, np.ndarray] = {}
    masks, small = [], []
    for start in track(range(0, count, BATCH), description=f"{name}: {count} pictures"):
        drawn = [draw(i) for i in range(start, min(start + BATCH, count))]
        rows += [row for row, _ in drawn]
        for _, made in drawn:
            scale = SAM_SIDE / max(made.pixels.shape[:2])
            masks.append(np.packbits(np.stack([low_res(mask, scale) for mask in made.masks]), axis=-1))
            small.append(np.packbits(np.stack([squashed(mask) for mask in made.masks]), axis=-1))
        for key, value in encoders([made.pixels for _, made in drawn]).items():
            if key not in arrays:
                shape = (count, *value.shape[1:])
                arrays[key] = np.lib.format.open_memmap(out / f"{name}_{key}.npy", "w+", np.float16, shape)
            arrays[key][start : start + len(drawn)] = value.half().numpy()
    np.save(out / f"{name}_masks.npy", np.stack(masks))
    np.save(out / f"{name}_squashed.npy", np.stack(small))
    (out / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows]))


def simulated(shown: Iterable[Shown], defective: int, rng: np.random.Generator) -> tuple[Callable[[int], tuple[Row, Made]], int]:
    """Draws pictures with and without defects, two to one; and how many there are."""
    simulator = Simulator(shown)
    return lambda i: simulator.picture(i // 3, i % 3 < 2, rng), defective // 2 * 3


def prepare(folder: Folder, out: Path, seed: int, counts: Counts | None = None, weights: Path = WEIGHTS) -> None:
    """Writes all sets and a contact sheet of simulated defects."""
    train, held = folder.held(seed)
    counts, encoders = counts or Counts.of(len(train), len(held)), Encoders(weights)
    for name, shown, count in (("train", train, counts.train), ("held", held, counts.held)):
        draw, total = simulated(shown, count, np.random.default_rng([seed, len(name)]))
        write_set(out, name, draw, total, encoders)
    if folder.test:
        write_set(out, "test", lambda i: tested(folder.test[i]), len(folder.test), encoders)
    contact_sheet(train, out / "simulated.jpg", seed)


def contact_sheet(shown: Iterable[Shown], path: Path, seed: int, rows: int = 4, columns: int = 8, side: int = 150) -> None:
    """Simulated defects, one picture above its mask, for a person's eye."""
    simulator, rng = Simulator(shown), np.random.default_rng(seed)
    sheet = Image.new("RGB", (columns * side, 2 * rows * side))
    for i in range(rows * columns):
        _, made = simulator.picture(i, True, rng)
        for k, image in enumerate((made.pixels, made.masks.any(0).astype(np.uint8) * 255)):
            where = ((i % columns) * side, (2 * (i // columns) + k) * side)
            sheet.paste(Image.fromarray(image).resize((side - 4, side - 4)), where)
    sheet.save(path, quality=80)


class Pictures:
    """One set, as `prepare` wrote it."""

    def __init__(self, out: Path, name: str) -> None:
        self.rows = [Row(**row) for row in json.loads((out / f"{name}.json").read_text())]
        self.defective = np.array([row.defective for row in self.rows])
        self.masks = np.unpackbits(np.load(out / f"{name}_masks.npy"), axis=-1).astype(bool)
        self.squashed = np.unpackbits(np.load(out / f"{name}_squashed.npy"), axis=-1).astype(bool)
        self.embeddings = np.load(out / f"{name}_embedding.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.rows)

    def embedding(self, rows: np.ndarray) -> Tensor:
        """SAM's, float32 [B, 256, G, G]."""
        return torch.from_numpy(self.embeddings[rows].astype(np.float32))
