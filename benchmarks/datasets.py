"""Data sets for `evaluate.py`: ELPV, and folders in MVTec-AD's, VisA's or a plain good and bad layout.

MVTec-AD (Bergmann et al., CVPR 2019): `CLASS/train/good`, `CLASS/test/DEFECT/*`, `CLASS/ground_truth/DEFECT/*_mask.png`.
VisA (Zou et al., ECCV 2022): `split_csv/1cls.csv` with object, split, label, image, mask; paths relative to the root.
Plain: `good/` and `bad/`; `masks/` with the stems of `bad/`; normal pictures to enrol in `train/`, otherwise the first half of `good/`
by name, which is then not tested.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sightline_training.data import Cell, cells

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
GOOD = "good"


@dataclass(frozen=True)
class Picture:
    """One picture to be judged. `kind`: of defect, "good" where there is none; `mask`: its ground truth, if there is one."""

    path: Path
    name: str
    kind: str
    mask: Path | None = None

    @property
    def defective(self) -> bool:
        return self.kind != GOOD


@dataclass(frozen=True)
class Group:
    """A class of products: `train` are normal pictures to enrol, `test` what is judged."""

    name: str
    train: tuple[Path, ...]
    test: tuple[Picture, ...]

    def limited(self, count: int) -> Group:
        """At most `count` test pictures, evenly over good ones first and then the kinds of defect."""
        if len(self.test) <= count:
            return self
        ordered = sorted(self.test, key=lambda picture: (picture.defective, picture.kind, picture.name))
        return replace(self, test=tuple(ordered[i * len(ordered) // count] for i in range(count)))


def load(source: str, layout: str | None = None) -> list[Group]:
    """The classes of `elpv`, or of a folder. ValueError, with what was looked for, where there is nothing to evaluate."""
    if source == "elpv":
        return elpv()
    root = Path(source)
    if not root.is_dir():
        raise ValueError(f"{source}: no such folder, expected elpv or a data set's folder")
    groups = LAYOUTS[layout or detect(root)](root)
    for group in groups:
        kinds = {picture.defective for picture in group.test}
        if kinds != {True, False}:
            raise ValueError(f"{source}: class {group.name} needs good and defective test pictures")
    if not groups:
        raise ValueError(f"{source}: no class found")
    return groups


def detect(root: Path) -> str:
    """The layout's name. ValueError where it is none of them."""
    if (root / "split_csv" / "1cls.csv").is_file():
        return "visa"
    if _classes(root):
        return "mvtec"
    if (root / "good").is_dir() and (root / "bad").is_dir():
        return "plain"
    raise ValueError(f"{root}: expected CLASS/train/good and CLASS/test (MVTec), split_csv/1cls.csv (VisA) or good and bad")


def elpv() -> list[Group]:
    """Mono and poly: enrolled from the training part's surely good cells (probability 0), judged on the test part."""
    groups = []
    for kind in ("mono", "poly"):
        train = tuple(cell.path for cell in cells("train") if cell.kind == kind and cell.probability == 0)
        groups.append(Group(kind, train, tuple(_cell(cell) for cell in cells("test") if cell.kind == kind)))
    return groups


def mvtec(root: Path) -> list[Group]:
    return [_mvtec_class(folder) for folder in _classes(root)]


def visa(root: Path) -> list[Group]:
    with (root / "split_csv" / "1cls.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups = []
    for name in dict.fromkeys(row["object"] for row in rows):
        own = [row for row in rows if row["object"] == name]
        train = tuple(root / row["image"] for row in own if row["split"] == "train" and row["label"] == "normal")
        groups.append(Group(name, train, tuple(_visa_picture(root, row) for row in own if row["split"] == "test")))
    return groups


def plain(root: Path) -> list[Group]:
    good, train = _pictures(root / "good"), tuple(_pictures(root / "train"))
    if not train:
        half = (len(good) + 1) // 2
        train, good = tuple(good[:half]), good[half:]
    masks = {path.stem: path for path in _pictures(root / "masks")}
    test = [Picture(path, f"good/{path.name}", GOOD) for path in good]
    test += [Picture(path, f"bad/{path.name}", "bad", masks.get(path.stem)) for path in _pictures(root / "bad")]
    return [Group(root.resolve().name, train, tuple(test))]


LAYOUTS: dict[str, Callable[[Path], list[Group]]] = {"mvtec": mvtec, "visa": visa, "plain": plain}


def _cell(cell: Cell) -> Picture:
    return Picture(cell.path, cell.name, "defective" if cell.defective else GOOD)


def _classes(root: Path) -> list[Path]:
    """The folders of MVTec classes: those in `root`, or `root` itself."""
    found = [folder for folder in (root, *sorted(root.iterdir())) if (folder / "train" / GOOD).is_dir() and (folder / "test").is_dir()]
    return found[:1] if found and found[0] == root else found


def _mvtec_class(folder: Path) -> Group:
    test = []
    for kind in sorted(path for path in (folder / "test").iterdir() if path.is_dir()):
        for path in _pictures(kind):
            mask = folder / "ground_truth" / kind.name / f"{path.stem}_mask.png"
            test.append(Picture(path, f"{kind.name}/{path.name}", kind.name, mask if mask.is_file() else None))
    return Group(folder.resolve().name, tuple(_pictures(folder / "train" / GOOD)), tuple(test))


def _visa_picture(root: Path, row: dict[str, str]) -> Picture:
    kind = GOOD if row["label"] == "normal" else row["label"]
    return Picture(root / row["image"], row["image"], kind, root / row["mask"] if row["mask"] else None)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
