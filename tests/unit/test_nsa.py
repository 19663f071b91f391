"""Defects made of normal pictures: the same again from the same seed, labelled where the picture changed, on the object."""

import cv2
import numpy as np
import pytest
from sightline_training import blemishes, nsa
from sightline_training.nsa import OBJECT, TEXTURE


def disc(seed: int, side: int = 160) -> np.ndarray:
    """A patterned disc on a plain grey ground."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 220, np.float32)
    y, x = np.mgrid[:side, :side]
    inside = (y - 80) ** 2 + (x - 80) ** 2 < 50**2
    pixels[inside] = (110 + 70 * np.sign(np.sin(x / 5 + seed)))[inside][:, None] * (1, 0.9, 0.6)
    return np.clip(pixels + rng.normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def stripes(seed: int, side: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.arange(side)[None, :, None]
    return np.clip(120 + 50 * np.sin(x / 4 + seed) + rng.normal(0, 4, (side, side, 3)), 0, 255).astype(np.uint8)


DISCS, STRIPES = ([make(seed) for seed in range(4)] for make in (disc, stripes))


def test_foreground_is_found_by_itself():
    found = nsa.foreground(DISCS[0])
    expected = cv2.circle(np.zeros((160, 160), np.uint8), (80, 80), 50, 1, -1) > 0
    assert (found & expected).sum() / (found | expected).sum() > 0.9
    assert nsa.foreground(STRIPES[0]) is None and nsa.foreground(np.full((160, 160, 3), 90, np.uint8)) is None


def test_rules_of_objects_and_textures():
    objects, rules = nsa.normals(DISCS)
    assert rules is OBJECT and all(0.2 < normal.foreground.mean() < 0.4 for normal in objects)
    textures, rules = nsa.normals(STRIPES)
    assert rules is TEXTURE and all(normal.foreground.all() for normal in textures)


def test_half_widths_follow_their_distribution():
    """0.03 + Gamma(2, 0.05), whose mean is 0.13, within 0.03 to 0.4."""
    rng = np.random.default_rng(0)
    widths = np.array([nsa.half_width(rng) for _ in range(4000)])
    assert widths.min() >= 0.03 and widths.max() <= 0.4 and widths.mean() == pytest.approx(0.13, abs=0.01)


@pytest.mark.parametrize(("pictures", "largest"), [(DISCS, 1.3), (STRIPES, 2.0)])
def test_patches_are_of_the_object_and_within_bounds(pictures, largest):
    made, rules = nsa.normals(pictures)
    rng = np.random.default_rng(1)
    patches = [found for _ in range(300) if (found := nsa.cut(made[0], rules, rng))]
    assert len(patches) > 50
    for pixels, mask in patches:
        assert pixels.shape == (*mask.shape, 3) and max(mask.shape) <= 160 * min(1, 2 * 0.4) * largest
        assert mask.mean() >= 0.2  # 0.25 before resizing rounds


@pytest.mark.parametrize("pictures", [DISCS, STRIPES])
def test_same_seed_same_defect_and_the_mask_lies_where_the_picture_changed(pictures):
    made, rules = nsa.normals(pictures)
    found = [nsa.patched(made[0], made[1:], rules, np.random.default_rng(seed)) for seed in (3, 3, 4, 5, 6, 7)]
    assert np.array_equal(found[0][0], found[1][0]) and not np.array_equal(found[0][0], found[2][0])
    for after, mask in found[1:]:
        change = np.abs(after.astype(int) - made[0].pixels).mean(2)
        assert (
            mask.mean() >= nsa.VISIBLE / 2 and change[mask].mean() > 3 * change[~mask].mean() and change[mask].mean() > rules.label[1] / 2
        )


def test_what_cannot_be_seen_is_no_defect():
    plain = nsa.Normal(np.full((120, 120, 3), 128, np.uint8), np.ones((120, 120), bool))
    assert nsa.patched(plain, [plain], TEXTURE, np.random.default_rng(0)) is None
    made = blemishes.blemish(plain, [plain], TEXTURE, np.random.default_rng(0))
    assert made.masks.any() and not np.array_equal(made.pixels, plain.pixels)


def test_blends_overlap_the_object():
    """A patch of the object in the corner of the background is not accepted."""
    made, _ = nsa.normals(DISCS)
    patch, mask = made[1].pixels[60:90, 60:90], np.ones((30, 30), bool)
    rng = np.random.default_rng(0)
    blended = [found for _ in range(60) if (found := nsa.blend(made[0], patch, mask, rng)) is not None]
    assert 5 < len(blended) < 55
    for after in blended:
        changed = np.abs(after.astype(int) - made[0].pixels).max(2) > 0
        assert (changed & made[0].foreground).any()


@pytest.mark.parametrize("kind", ["scratch", "spot"])
def test_drawn_blemishes_lie_on_the_object(kind):
    made, _ = nsa.normals(DISCS)
    for seed in range(12):
        after, mask = blemishes.drawn(made[0], kind, np.random.default_rng(seed))
        changed = np.abs(after.astype(int) - made[0].pixels).max(2) >= blemishes.FAINTEST
        assert np.array_equal(changed, mask) and mask.sum() >= 16
        assert (mask & cv2.dilate(made[0].foreground.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)).sum() == mask.sum()


def test_variations_stay_close_and_keep_the_object():
    made, _ = nsa.normals(DISCS)
    varied = blemishes.varied(made[0], np.random.default_rng(0))
    assert varied.pixels.shape == made[0].pixels.shape and not np.array_equal(varied.pixels, made[0].pixels)
    assert (varied.foreground & made[0].foreground).sum() > 0.85 * made[0].foreground.sum()
