"""The drawn products: the same from the same seed, and masks that say exactly what was changed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import datasets  # noqa: E402
import drawn  # noqa: E402
from drawn_canvas import SIDE, Camera  # noqa: E402
from drawn_defects import KINDS, SHARES, changed  # noqa: E402


def test_six_products_and_six_defects() -> None:
    assert len(drawn.PRODUCTS) == 6 and len(KINDS) == 6


@pytest.mark.parametrize("product", drawn.PRODUCTS)
def test_a_mask_is_what_changed(product: str) -> None:
    """For every kind: outside of the mask nothing differs, inside a person sees it, and it is neither tiny nor huge."""
    camera = Camera.drawn(np.random.default_rng(1))
    whole, without = (camera.placed(drawn.PRODUCTS[product](np.random.default_rng(2), gone)) for gone in (False, True))
    for kind in KINDS:
        image, mask = changed(np.random.default_rng(3), kind, whole, without)
        change = np.abs(image - whole.image).max(axis=-1)
        assert change[~mask].max() == 0, kind
        assert change[mask].mean() > 15, kind
        assert SHARES[0] <= mask.mean() <= SHARES[1], kind
        assert ndimage.label(mask, np.ones((3, 3)))[1] <= 2, kind  # one defect, not crumbs that AUPRO would count as many


def test_only_the_mask_differs_from_the_normal_picture() -> None:
    good = drawn.normal("plate", 5, 9)
    bad, mask = drawn.defective("plate", "crack", 5, 9)
    assert good.shape == bad.shape == (SIDE, SIDE, 3) and good.dtype == bad.dtype == np.uint8
    differs = (good != bad).any(axis=-1)
    assert not differs[~mask].any() and differs[mask].mean() > 0.8


def test_the_same_seed_draws_the_same_and_every_piece_differs() -> None:
    first = drawn.normal("bottle", 0, 0)
    assert (first == drawn.normal("bottle", 0, 0)).all()
    for other in (drawn.normal("bottle", 0, 1), drawn.normal("bottle", 1, 0)):
        assert np.abs(first.astype(int) - other).mean() > 2


def test_it_writes_a_data_set(tmp_path: Path) -> None:
    drawn.write(tmp_path, amounts=drawn.Amounts(train=2, good=4, each=2), products=["screw"])
    (group,) = datasets.load(str(tmp_path))
    assert (group.name, len(group.train), len(group.test)) == ("screw", 2, 4 + 2 * len(KINDS))
    for picture in group.test:
        assert (picture.mask is not None) == picture.defective
        if picture.mask is not None:
            assert set(np.unique(np.asarray(Image.open(picture.mask)))) == {0, 255}
    page = drawn.contact_sheet(tmp_path, ["screw"], side=50)
    assert page.size == (50 * 8, 22 + 100)
