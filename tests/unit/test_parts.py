"""The tiny profile's part decoder, and the drawings and prompts that it learns from."""

import numpy as np
import pytest
import torch
from sightline_export.sam_decoder import MaskDecoder, PromptEncoder
from sightline_export.tiny_parts import PartDecoder, PromptMaps
from sightline_training.grounds import GROUNDS
from sightline_training.part_prompts import box_prompt, point_prompt
from sightline_training.part_scenes import framed
from sightline_training.parts import draw_scene

CELLS = [np.random.default_rng(0).integers(60, 200, (300, 300)).astype(np.uint8)]


def test_maps_of_a_box():
    """Corners at 2.5 and 10 cells: the cover is the box's area, the middle lies in it, the ring around it."""
    coords, labels = torch.tensor([[[2.5, 4.0], [10.0, 8.0]]]), torch.tensor([[2.0, 3.0]])
    regions, maps = PromptMaps(32)(coords, labels)
    cover, middle, ring = maps[0, :3]
    assert cover.sum() == pytest.approx(7.5 * 4) and cover[5, 2] == 0.5 and cover[5, 9] == 1 and cover[5, 10] == 0
    assert middle.sum() == pytest.approx(4.5 * 2.4, abs=1e-4) and (middle <= cover + 1e-6).all()
    assert ring[5, 11] == 1 and not ring[5, 5] and torch.equal(regions[0, 1], ring)
    assert not maps[0, 3:7].any() and maps[0, 7:, 0, 0].tolist() == [1, 0, 0]


def test_maps_of_points():
    """The foreground and the background point lie where they were put; padding leaves no trace."""
    coords = torch.tensor([[[5.5, 20.5], [25.5, 3.5], [0.0, 0.0]]])
    regions, maps = PromptMaps(32)(coords, torch.tensor([[1.0, 0.0, -1.0]]))
    assert regions[0, 2].argmax() == 20 * 32 + 5 and regions[0, 3].argmax() == 3 * 32 + 25
    assert not maps[0, :3].any() and maps[0, 7:, 0, 0].tolist() == [0, 1, 1]
    assert maps.isfinite().all()


@torch.inference_mode()
def test_a_prompt_does_not_change_another():
    torch.manual_seed(0)
    decoder = PartDecoder(PromptEncoder(), MaskDecoder(256, 64, 1), 8, 128).eval()
    torch.nn.init.normal_(decoder.comparison.logits.weight)
    image = torch.randn(2, 256, 8, 8)
    coords, labels = torch.rand(2, 3, 2, 2) * 128, torch.tensor([2.0, 3.0]).expand(2, 3, 2)
    masks, ious = decoder(image, coords, labels)
    alone, iou = decoder(image[1:], coords[1:, 2:], labels[1:, 2:])
    assert masks.shape == (2, 3, 32, 32) and ious.shape == (2, 3)
    torch.testing.assert_close(alone[0, 0], masks[1, 2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou[0, 0], ious[1, 2], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ground", GROUNDS)
def test_scenes_and_their_prompts(ground):
    """Parts do not overlap, boxes are tight, points lie on what they ask for."""
    rng = np.random.default_rng(GROUNDS.index(ground))
    scene = draw_scene(rng, CELLS, ground)
    assert scene.pixels.shape == (*scene.masks.shape[1:], 3) and scene.masks.any((1, 2)).all() and scene.masks.sum(0).max() == 1
    known = framed(scene)
    full = np.unpackbits(known["masks"][: len(scene.masks)], axis=-1).astype(bool)
    cover = full.reshape(-1, 128, 4, 128, 4).mean((2, 4), dtype=np.float32)
    for mask, (x0, y0, x1, y1) in zip(full, known["boxes"], strict=False):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert np.abs(np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) - (x0, y0, x1, y1)).max() <= 3
    for count in (1, 2, 4):
        for prompt, target in (
            box_prompt(cover, known["boxes"], known["size"], rng),
            point_prompt(cover, known["boxes"], known["size"], rng, count, boxed=False),
            point_prompt(cover, known["boxes"], known["size"], rng, count, boxed=True),
        ):
            assert target.shape == (128, 128) and 0 <= target.min() and target.max() <= 1
            for x, y, label in prompt[np.isin(prompt[:, 2], (0, 1))]:
                assert (target[int(y) // 4, int(x) // 4] > 0.5) == (label == 1)
