"""The real size: vit_b with random weights of Meta's registry, exported by the command, against Meta's package on three shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sightline_ensemble.intake import sam_prompt
from sightline_ensemble.picture import sam_pixels, sam_size
from sightline_export.parity import decoder_of, encoder_of, mask_iou
from sightline_export.pictures import Picture, real_pictures

SHAPES = ("wide", "tall", "square")
ERROR, IOU = 2e-4, 0.999  # of the embedding's range; of each mask


@pytest.fixture(scope="module")
def answers(vit_b):
    """By shape: the picture, Meta's embedding, and how to decode with Meta's model and with ONNX Runtime."""
    encode, decode = encoder_of(vit_b.graph("sam_encoder")), decoder_of(vit_b.graph("sam_decoder"))
    found = {}
    with torch.inference_mode():
        for shape, picture in zip(SHAPES, real_pictures(3, 1024), strict=True):
            height, width = picture.resized
            pixels = torch.from_numpy(picture.sam_pixels[:, :, :height, :width]).float()
            found[shape] = picture, vit_b.meta.image_encoder(vit_b.meta.preprocess(pixels)), encode(picture)
    return found, decode


@pytest.mark.parametrize("shape", SHAPES)
def test_embedding(answers, shape):
    picture, expected, found = answers[0][shape]
    assert {"wide": picture.width > picture.height, "tall": picture.width < picture.height}.get(shape, picture.width == picture.height)
    assert np.abs(found - expected.numpy()).max() <= ERROR * np.ptp(expected.numpy())


@pytest.mark.parametrize("kind", ["box", "points", "both"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_masks(vit_b, answers, shape, kind):
    picture, expected, found = answers[0][shape]
    sam, frame = vit_b.meta, torch.tensor(picture.resized[::-1])  # Meta's apply_coords scales each side by its own rounded length
    box = torch.tensor([[0.2, 0.2, 0.8, 0.8]]) * frame.repeat(2)
    points = torch.tensor([[[0.5, 0.5], [0.04, 0.04]]]) * frame
    labels = torch.tensor([[1, 0]])
    sparse, dense = sam.prompt_encoder(
        points=(points, labels) if kind != "box" else None, boxes=box if kind != "points" else None, masks=None
    )
    masks, _ = sam.mask_decoder(expected, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False)
    ours = answers[1](found, *picture.prompt(kind, 1024))[0, 0]
    assert mask_iou(picture, masks[0, 0].numpy(), ours) >= IOU and 0 < (ours > 0).mean() < 1


def test_prompts_and_pixels_are_the_serving_ones():
    """The gate and the server hand the graphs the same arrays."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8))
    picture = Picture("noise", 160, 90, sam_pixels(image, 1024), sam_size(90, 160, 1024))
    coords, labels = picture.prompt("box", 1024)
    served = sam_prompt(np.array([[32, 18, 128, 72]], np.float32), np.zeros((0, 3), np.float32), 90, 160, 1024)
    assert np.array_equal(coords, served["point_coords"]) and np.array_equal(labels, served["point_labels"])
