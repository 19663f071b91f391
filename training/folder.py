"""A user's own pictures: a folder in MVTec-AD's layout, one class of it, or just normal pictures.

`<class>/train/good/*` teaches. `<class>/test/<defect>/*` and `<class>/ground_truth/<defect>/<name>_mask.png` (MVTec-AD, Bergmann
et al. 2019) only judge the result in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sightline_ensemble.picture import decode

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
GOOD = "good"
LONGEST = 512  # more than that no encoder of the tiny profile sees
FEWEST = 5  # normal pictures of one class: at least one is held back, and patches come from another one


@dataclass(frozen=True)
class Shown:
    """One picture and what it shows. `mask`: its ground truth, where there is one."""

    path: Path
    product: str
    defect: str = GOOD
    mask: Path | None = None

    @property
    def defective(self) -> bool:
        return self.defect != GOOD


@dataclass(frozen=True)
class Folder:
    """`normal` is all that training may see."""

    normal: tuple[Shown, ...]
    test: tuple[Shown, ...]

    @property
    def products(self) -> list[str]:
        return sorted({shown.product for shown in self.normal})

    def held(self, seed: int, share: float = 0.2) -> tuple[tuple[Shown, ...], tuple[Shown, ...]]:
        """The normal pictures to train on, and those held back to judge and calibrate with: `share` of each class, at least one."""
        rng, train, held = np.random.default_rng(seed), [], []
        for product in self.products:
            own = [shown for shown in self.normal if shown.product == product]
            order, count = rng.permutation(len(own)), max(1, round(share * len(own)))
            held += [own[i] for i in sorted(order[:count])]
            train += [own[i] for i in sorted(order[count:])]
        return tuple(train), tuple(held)


def read_folder(root: Path) -> Folder:
    """What lies in a folder, whichever of the three layouts it has.

    Raises:
        ValueError: no layout is recognised, or a class has too few normal pictures; the text says what was expected.
    """
    classes = sorted(path.parents[1] for path in root.glob(f"*/train/{GOOD}") if path.is_dir())
    if not classes and (root / "train" / GOOD).is_dir():
        classes = [root]
    normal, test = [], []
    for folder in classes:
        normal += [Shown(path, _name(folder)) for path in _pictures(folder / "train" / GOOD)]
        test += [shown for kind in sorted((folder / "test").glob("*")) for shown in _tests(folder, kind.name)]
    if not classes:
        normal = [Shown(path, _name(root)) for path in _pictures(root)]
    _check(root, normal)
    return Folder(tuple(normal), tuple(test))


def _check(root: Path, normal: list[Shown]) -> None:
    if not normal:
        raise ValueError(f"{root}: no pictures; expected <class>/train/good/*.png (MVTec's layout), train/good/*.png or *.png")
    for product in sorted({shown.product for shown in normal}):
        if (count := sum(shown.product == product for shown in normal)) < FEWEST:
            raise ValueError(f"{product}: {count} normal pictures, expected at least {FEWEST}")


def _name(folder: Path) -> str:
    return folder.resolve().name


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def _tests(folder: Path, defect: str) -> list[Shown]:
    return [Shown(path, _name(folder), defect, _truth(folder, defect, path)) for path in _pictures(folder / "test" / defect)]


def _truth(folder: Path, defect: str, path: Path) -> Path | None:
    candidates = (folder / "ground_truth" / defect / f"{path.stem}{end}.png" for end in ("_mask", ""))
    return next((found for found in candidates if found.is_file()), None)


def pixels(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], decoded as the server does it, longest side at most LONGEST."""
    image = decode(path.read_bytes(), path.name)
    scale = min(1.0, LONGEST / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS))


def truth(shown: Shown, shape: tuple[int, int]) -> np.ndarray:
    """The ground truth as bool [H, W] of `shape`; all False for a normal picture or one without ground truth."""
    if shown.mask is None:
        return np.zeros(shape, bool)
    mask = Image.open(shown.mask).convert("L").resize(shape[::-1], Image.Resampling.BOX)
    return np.asarray(mask) >= 64
