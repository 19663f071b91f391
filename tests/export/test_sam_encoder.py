"""Our image encoder against Meta's: the same numbers in another order of work."""

from __future__ import annotations

import pytest
import torch
from sightline_export.sam_encoder import SIZES, ImageEncoder
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .conftest import SMALL

SHAPES = {"wide": (640, 1024), "tall": (1024, 513), "square": (1024, 1024)}


@pytest.fixture(scope="module")
def ours(small) -> ImageEncoder:
    encoder = ImageEncoder(SMALL).eval()
    encoder.load_state_dict(small.image_encoder.state_dict())
    return encoder


def picture(height: int, width: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def padded(pixels: torch.Tensor) -> torch.Tensor:
    """As the decode step hands it on, but with rubbish beyond the picture, which must not matter."""
    square = torch.full((1, 3, 1024, 1024), 77, dtype=torch.uint8)
    square[0, :, : pixels.shape[1], : pixels.shape[2]] = pixels
    return square


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_embeddings_equal_metas(small, ours, shape):
    pixels = picture(*SHAPES[shape], seed=3)
    expected = small.image_encoder(small.preprocess(pixels.float())[None])
    found = ours(padded(pixels), torch.tensor([SHAPES[shape]], dtype=torch.int32))
    assert (found - expected).abs().max() < 2e-5 * (expected.max() - expected.min())


@torch.inference_mode()
def test_one_picture_does_not_change_another(ours):
    pictures = [padded(picture(h, w, seed)) for seed, (h, w) in enumerate(SHAPES.values())]
    sizes = torch.tensor(list(SHAPES.values()), dtype=torch.int32)
    together = ours(torch.cat(pictures), sizes)
    for i, alone in enumerate(pictures):
        torch.testing.assert_close(together[i : i + 1], ours(alone, sizes[i : i + 1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "parameters"), [("vit_b", 89_670_912), ("vit_l", 308_278_272), ("vit_h", 637_026_048)])
def test_released_sizes(name, parameters):
    with torch.device("meta"):
        encoder = ImageEncoder(SIZES[name])
    assert sum(p.numel() for p in encoder.parameters()) == parameters


@torch.inference_mode()
def test_counted_work_is_what_torch_counts(ours):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the counter knows no fused attention of the CPU
        ours(padded(picture(1024, 1024, 0)), torch.tensor([[1024, 1024]], dtype=torch.int32))
    assert counter.get_total_flops() == pytest.approx(2 * SMALL.macs, rel=1e-3)
