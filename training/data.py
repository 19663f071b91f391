"""ELPV cells (from their PyPI package) and the committed split.

Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence images"
(arXiv 1807.02894): 2,624 cells, 300 x 300 grey, each with a probability of being defective (0, 1/3, 2/3, 1).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SPLIT = Path(__file__).with_name("split.csv")
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Cell:
    name: str  # images/cell0001.png, relative to the package's data folder
    probability: float  # of being defective, as labelled
    kind: str  # mono or poly
    part: str  # train, val or test

    @property
    def defective(self) -> bool:
        return self.probability >= 0.5

    @property
    def path(self) -> Path:
        return data_folder() / self.name


def data_folder() -> Path:
    """The folder of ELPV's pictures and labels.csv; FileNotFoundError where the package is missing."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("elpv-dataset is not installed; expected by: pip install --no-deps -r requirements/files.txt")
    return Path(spec.origin).parent / "data"


def labels() -> list[tuple[str, float, str]]:
    """(name, probability, kind) of every cell, in the package's order."""
    rows = (data_folder() / "labels.csv").read_text().split("\n")
    fields = [row.split() for row in rows if row.strip()]
    return [(name, float(probability), kind) for name, probability, kind in fields]


def cells(part: str | None = None) -> list[Cell]:
    """The cells of one part of the committed split (of all, where none is named)."""
    with SPLIT.open() as file:
        part_of = {row["name"]: row["part"] for row in csv.DictReader(file)}
    found = [Cell(name, probability, kind, part_of[name]) for name, probability, kind in labels()]
    return [cell for cell in found if part is None or cell.part == part]


def picture(cell: Cell) -> np.ndarray:
    """uint8 [300, 300]."""
    return np.asarray(Image.open(cell.path).convert("L"))


def write_split(seed: int = 0) -> None:
    """A quarter for the test, a tenth of the rest for choosing; stratified by kind and probability, once and for all."""
    rng = np.random.default_rng(seed)
    groups: dict[tuple[str, float], list[str]] = {}
    for name, probability, kind in labels():
        groups.setdefault((kind, probability), []).append(name)
    part_of: dict[str, str] = {}
    for names in groups.values():
        order = rng.permutation(len(names))
        n_test, n_val = round(len(names) / 4), round(len(names) * 3 / 40)
        for rank, i in enumerate(order):
            part_of[names[i]] = "test" if rank < n_test else "val" if rank < n_test + n_val else "train"
    with SPLIT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("name", "part"))
        writer.writerows(sorted(part_of.items()))


if __name__ == "__main__":
    write_split()
