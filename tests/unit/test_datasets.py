"""Layouts of data sets, written to a folder and found again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import answers  # noqa: E402
import datasets  # noqa: E402


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    for name in ("nut", "cable"):
        touch(tmp_path / name, "train/good/000.png", "train/good/001.png", "test/good/000.png", "test/bent/000.png", "test/bent/001.png")
        touch(tmp_path / name, "ground_truth/bent/000_mask.png", "license.txt")
    return tmp_path


def test_mvtec(mvtec: Path) -> None:
    assert datasets.detect(mvtec) == "mvtec"
    cable, nut = datasets.load(str(mvtec))
    assert (cable.name, nut.name) == ("cable", "nut")
    assert [path.name for path in nut.train] == ["000.png", "001.png"]
    assert [(p.name, p.kind, p.defective) for p in nut.test] == [
        ("bent/000.png", "bent", True), ("bent/001.png", "bent", True), ("good/000.png", "good", False),
    ]  # fmt: skip
    assert [p.mask and p.mask.name for p in nut.test] == ["000_mask.png", None, None]


def test_one_class_of_mvtec(mvtec: Path) -> None:
    assert [group.name for group in datasets.load(str(mvtec / "nut"))] == ["nut"]


def test_visa(tmp_path: Path) -> None:
    (tmp_path / "split_csv").mkdir()
    lines = [
        "object,split,label,image,mask",
        "candle,train,normal,candle/Data/Images/Normal/0001.JPG,",
        "candle,test,normal,candle/Data/Images/Normal/0002.JPG,",
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
    ]
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    (group,) = datasets.load(str(tmp_path))
    assert group.name == "candle" and group.train == (tmp_path / "candle/Data/Images/Normal/0001.JPG",)
    assert [(p.defective, p.mask) for p in group.test] == [(False, None), (True, tmp_path / "candle/Data/Masks/Anomaly/000.png")]


def test_good_and_bad(tmp_path: Path) -> None:
    touch(tmp_path, "good/a.jpg", "good/b.JPG", "good/c.png", "bad/x.png", "bad/y.png", "masks/y.png", "good/notes.txt")
    (group,) = datasets.load(str(tmp_path))
    assert [path.name for path in group.train] == ["a.jpg", "b.JPG"]  # half of three, rounded up
    assert [p.name for p in group.test] == ["good/c.png", "bad/x.png", "bad/y.png"]
    assert [p.mask and p.mask.name for p in group.test] == [None, None, "y.png"]


def test_good_and_bad_with_pictures_to_enrol(tmp_path: Path) -> None:
    touch(tmp_path, "good/a.jpg", "bad/x.png", "train/t.png")
    (group,) = datasets.load(str(tmp_path))
    assert [path.name for path in group.train] == ["t.png"] and [p.name for p in group.test] == ["good/a.jpg", "bad/x.png"]


def test_the_layout_can_be_said(mvtec: Path) -> None:
    touch(mvtec, "good/a.png", "good/b.png", "bad/x.png")
    assert datasets.detect(mvtec) == "mvtec"
    assert len(datasets.load(str(mvtec), "plain")) == 1


@pytest.mark.parametrize("names", [(), ("pictures/a.png",), ("good/a.png",)])
def test_no_layout(tmp_path: Path, names: tuple[str, ...]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match="expected"):
        datasets.load(str(tmp_path))


def test_a_class_without_defects_cannot_be_evaluated(tmp_path: Path) -> None:
    touch(tmp_path, "nut/train/good/0.png", "nut/test/good/0.png")
    with pytest.raises(ValueError, match="nut needs good and defective"):
        datasets.load(str(tmp_path))


def test_elpv_enrols_no_test_cell() -> None:
    groups = datasets.load("elpv")
    assert [group.name for group in groups] == ["mono", "poly"]
    assert sum(len(group.test) for group in groups) == 654
    for group in groups:
        assert len(group.train) >= 100 and not set(group.train) & {picture.path for picture in group.test}


def test_a_limit_keeps_every_kind(mvtec: Path) -> None:
    group = datasets.load(str(mvtec))[0]
    assert {picture.kind for picture in group.limited(2).test} == {"good", "bent"}
    assert group.limited(99) is group


def test_more_shots_contain_fewer_of_the_same_seed() -> None:
    group = datasets.load("elpv")[0]
    one, four, other = (answers.Setting(shots, seed).chosen(group) for shots, seed in ((1, 3), (4, 3), (4, 4)))
    assert len(four) == 4 and one == four[:1] and set(four) != set(other)
    assert len(answers.Setting(None, 0).chosen(group)) == min(len(group.train), 500)
    with pytest.raises(ValueError, match="9999 normal pictures asked for"):
        answers.Setting(9999, 0).chosen(group)


def test_names_of_products_are_allowed_ones() -> None:
    assert answers.product_name("Metal Nut", answers.Setting(4, 0)) == "evaluate-metal-nut-k4-s0"
    assert len(answers.product_name("x" * 90, answers.Setting(None, 4))) <= 64
    assert len(answers.settings([0, 4], True, 3)) == 1 + 3 + 1
