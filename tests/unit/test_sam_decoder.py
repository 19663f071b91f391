"""Our prompt encoder and mask decoder against Meta's `segment-anything` package, random weights, box and point prompts."""

import sys
import types

import pytest
import torch
from sightline_export.sam_decoder import MaskDecoder, PromptEncoder

GRID, SIDE = 16, 256


@pytest.fixture(scope="module")
def meta():
    """The package imports torchvision for helpers that the decoder does not use; there is no CPU build of it here."""
    names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms", "torchvision.transforms.functional")
    missing = object()
    kept = {name: sys.modules.get(name, missing) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for name, attributes in {names[2]: ("batched_nms", "box_area"), names[4]: ("resize", "to_pil_image")}.items():
        for attribute in attributes:
            setattr(sys.modules[name], attribute, None)
    import segment_anything.modeling as modeling

    yield modeling
    for name, module in kept.items():
        sys.modules.pop(name) if module is missing else sys.modules.__setitem__(name, module)


@pytest.fixture(scope="module")
def pair(meta):
    torch.manual_seed(0)
    transformer = meta.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = meta.MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=3).eval()
    prompts = meta.PromptEncoder(256, (GRID, GRID), (SIDE, SIDE), 16).eval()
    ours_decoder, ours_prompts = MaskDecoder().eval(), PromptEncoder().eval()
    ours_decoder.load_state_dict(decoder.state_dict())
    kept = {name: value for name, value in prompts.state_dict().items() if not name.startswith("mask_downscaling")}
    ours_prompts.load_state_dict(kept)
    return decoder, prompts, ours_decoder, ours_prompts


@pytest.mark.parametrize("use", ["box", "points", "both"])
@torch.inference_mode()
def test_masks_equal(pair, use):
    decoder, prompts, ours_decoder, ours_prompts = pair
    image = torch.randn(1, 256, GRID, GRID)
    box = torch.tensor([[20.0, 30.0, 180.0, 200.0]])
    points = (torch.tensor([[[50.0, 60.0], [200.0, 90.0]]]), torch.tensor([[1, 0]]))
    sparse, dense = prompts(points=points if use != "box" else None, boxes=box if use != "points" else None, masks=None)
    expected, expected_iou = decoder(image, prompts.get_dense_pe(), sparse, dense, multimask_output=False)

    corners, corner_labels = box.view(1, 2, 2), torch.tensor([[2.0, 3.0]])
    padding = torch.zeros(1, 1, 2), torch.tensor([[-1.0]])
    coords, labels = {
        "box": (corners, corner_labels),
        "points": (torch.cat((points[0], padding[0]), 1), torch.cat((points[1].float(), padding[1]), 1)),
        "both": (torch.cat((points[0], corners), 1), torch.cat((points[1].float(), corner_labels), 1)),
    }[use]
    ours_sparse = ours_prompts(coords, labels, SIDE)
    torch.testing.assert_close(ours_sparse, sparse, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours_prompts.dense_pe(GRID), prompts.get_dense_pe(), atol=1e-5, rtol=1e-5)
    masks, iou = ours_decoder(image, ours_prompts.dense_pe(GRID), ours_sparse, ours_prompts.no_mask_embed.weight.view(1, -1, 1, 1))
    torch.testing.assert_close(masks, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(iou, expected_iou, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_one_picture_does_not_change_another(pair):
    *_, decoder, prompts = pair
    images, sparse = torch.randn(3, 256, GRID, GRID), torch.randn(3, 1, 256)
    dense, pe = prompts.no_mask_embed.weight.view(1, -1, 1, 1), prompts.dense_pe(GRID)
    together, _ = decoder(images, pe, sparse, dense)
    alone, _ = decoder(images[1:2], pe, sparse[1:2], dense)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)
