"""A user's folder: three layouts, what may teach, what only judges."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sightline_training import folder


def picture(path: Path, size: tuple[int, int] = (40, 30), tone: int = 90, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, tone if mode == "L" else (tone,) * 3).save(path)
    return path


def mvtec(root: Path, product: str, count: int = 6) -> None:
    for i in range(count):
        picture(root / product / "train" / "good" / f"{i:03}.png")
    picture(root / product / "test" / "good" / "000.png")
    picture(root / product / "test" / "hole" / "000.png")
    picture(root / product / "test" / "dent" / "000.jpg")
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 5:15] = 255
    (root / product / "ground_truth" / "hole").mkdir(parents=True)
    Image.fromarray(mask).save(root / product / "ground_truth" / "hole" / "000_mask.png")


def test_mvtec_layout(tmp_path):
    mvtec(tmp_path, "screw")
    mvtec(tmp_path, "bottle", 5)
    found = folder.read_folder(tmp_path)
    assert found.products == ["bottle", "screw"] and len(found.normal) == 11
    assert all("train" in one.path.parts and not one.defective for one in found.normal)
    assert [(one.product, one.defect, one.mask is not None) for one in found.test[:3]] == [
        ("bottle", "dent", False), ("bottle", "good", False), ("bottle", "hole", True),
    ]  # fmt: skip
    hole = found.test[2]
    assert folder.pixels(hole.path).shape == (30, 40, 3) and folder.truth(hole, (30, 40)).sum() == 100
    assert folder.truth(hole, (15, 20)).sum() == 30 and not folder.truth(found.test[0], (30, 40)).any()  # half covered ones count


@pytest.mark.parametrize("inside", [".", "train/good"])
def test_one_class_and_a_plain_folder(tmp_path, inside):
    for i in range(5):
        picture(tmp_path / "cap" / inside / f"{i}.png")
    (tmp_path / "cap" / inside / "notes.txt").write_text("no picture")
    found = folder.read_folder(tmp_path / "cap")
    assert found.products == ["cap"] and len(found.normal) == 5 and not found.test


def test_held_back_pictures_are_other_ones_and_of_every_class(tmp_path):
    mvtec(tmp_path, "screw", 10)
    mvtec(tmp_path, "bottle", 5)
    found = folder.read_folder(tmp_path)
    train, held = found.held(0)
    assert {one.path for one in train} | {one.path for one in held} == {one.path for one in found.normal}
    assert not {one.path for one in train} & {one.path for one in held}
    assert [one.product for one in held] == ["bottle", "screw", "screw"]
    assert found.held(0) == (train, held)


def test_large_and_16_bit_pictures(tmp_path):
    assert folder.pixels(picture(tmp_path / "large.png", (1024, 600))).shape == (300, 512, 3)
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(tmp_path / "deep.png")
    assert folder.pixels(tmp_path / "deep.png").dtype == np.uint8


def test_refused(tmp_path):
    with pytest.raises(ValueError, match="expected <class>/train/good"):
        folder.read_folder(tmp_path)
    picture(tmp_path / "one.png")
    with pytest.raises(ValueError, match="1 normal pictures, expected at least 5"):
        folder.read_folder(tmp_path)
