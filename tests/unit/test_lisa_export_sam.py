"""The SAM inside golden checkpoint A: sizes from the weights, embeddings and masks as the reference computed them."""

from __future__ import annotations

import copy
import hashlib

import golden_a
import numpy as np
import pytest
import torch
from sightline_ensemble.picture import sam_pixels, sam_size
from sightline_ensemble.upsample import upsampler
from sightline_export.checkpoint import CheckpointError, Sam
from sightline_export.graphs import LisaDecoder
from sightline_export.lisa_sam import PREFIX, inner_sam, inner_size, same_encoder
from sightline_export.shards import open_shards


@pytest.fixture(scope="module")
def sam() -> Sam:
    return inner_sam(open_shards(golden_a.checkpoint()))


@pytest.fixture(scope="module")
def embeddings(sam) -> list[torch.Tensor]:
    """[1, 256, 64, 64] of each case."""
    found = []
    with torch.inference_mode():
        for case in golden_a.CASES:
            size = torch.from_numpy(golden_a.of(case, "resized_size").astype(np.int32))[None]
            found.append(sam.encoder(torch.from_numpy(sam_pixels(golden_a.picture(case), 1024)), size))
    return found


def test_sizes_come_from_the_weights(sam):
    size = sam.size
    assert (size.width, size.depth, size.heads, size.global_blocks, size.window) == (32, 2, 2, (1,), 14)
    assert (size.image_size, size.patch, size.grid, size.out) == (1024, 16, 64, 256)


@pytest.mark.parametrize("case", golden_a.CASES)
def test_the_resized_picture_is_the_references_to_the_byte(case):
    image = golden_a.picture(case)
    height, width = sam_size(image.height, image.width, 1024)
    assert [height, width] == golden_a.of(case, "resized_size").tolist()
    inside = np.ascontiguousarray(sam_pixels(image, 1024)[0, :, :height, :width].transpose(1, 2, 0))
    assert hashlib.sha256(inside.tobytes()).hexdigest() == str(golden_a.of(case, "sam_resized_sha256"))


def test_embeddings_are_the_references(embeddings):
    for case, found in enumerate(embeddings):
        expected = torch.from_numpy(golden_a.of(case, "image_embedding_sub8"))
        torch.testing.assert_close(found[0, :, ::8, ::8], expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_masks_of_seg_embeddings_are_the_references(sam, embeddings):
    decode = LisaDecoder(sam.prompts, sam.decoder, sam.size.grid, sam.size.image_size)
    for case in (0, 1, 2):
        segs = torch.from_numpy(golden_a.of(case, "seg_embeddings"))[None]
        masks, ious = decode(embeddings[case], segs)
        torch.testing.assert_close(masks[0].numpy(), golden_a.of(case, "low_res_logits")[:, 0], atol=2e-3, rtol=0)
        torch.testing.assert_close(ious[0].numpy(), golden_a.of(case, "iou_predictions")[:, 0], atol=5e-5, rtol=0)
        resized, original = (tuple(golden_a.of(case, f"{name}_size").tolist()) for name in ("resized", "original"))
        for found, expected in zip(masks[0].numpy(), golden_a.mask(case), strict=True):
            logits = upsampler(found, resized, original, np.arange(original[1]))(np.arange(original[0]))
            assert np.mean((logits > 0) != expected) <= 1e-4


def test_the_released_encoder_is_known_up_to_one_rounding(sam):
    ours, released = copy.deepcopy(sam), copy.deepcopy(sam)
    assert same_encoder(ours, released) is None
    weight = released.encoder.neck[0].weight
    weight.copy_(weight * (1 + 2**-12))
    assert same_encoder(ours, released) == "neck.0.weight"
    ours.encoder.neck[0].weight.copy_(weight.bfloat16())
    assert same_encoder(ours, released) is None


def test_a_damaged_sam_is_named(tmp_path):
    name = f"{PREFIX}mask_decoder.iou_token.weight"

    def remove(shards):
        del shards["pytorch_model-00002-of-00002.bin"][name]

    def window(shards):
        shards["pytorch_model-00001-of-00002.bin"][f"{PREFIX}image_encoder.blocks.0.attn.rel_pos_h"] = torch.zeros(28, 16)

    with pytest.raises(CheckpointError, match=f"pytorch_model-00002-of-00002.bin: tensor '{name}' is missing, though the index"):
        inner_sam(open_shards(golden_a.write_checkpoint(tmp_path / "a", remove)))
    folder = golden_a.write_checkpoint(tmp_path / "b", window)
    with pytest.raises(CheckpointError, match="rel_pos_h' has the shape .28, 16., expected .27, 16."):
        inner_sam(open_shards(folder))
    assert inner_size(open_shards(folder)).window == 14
