"""Our prompt encoder and mask decoder against Meta's `segment-anything` package, random weights, box and point prompts."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sightline_ensemble.contract import MODELS
from sightline_ensemble.onnx import NO_MASK, defects, parts, pictures
from sightline_export.graphs import LisaDecoder, SamDecoder
from sightline_export.onnx_file import write_onnx
from sightline_export.sam_decoder import MaskDecoder, PromptEncoder

GRID, SIDE = 16, 256


@pytest.fixture(scope="module")
def pair(meta):
    torch.manual_seed(0)
    meta = meta.modeling
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


def prompts_of(pictures: int, prompts: int, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random prompts, each with the corners of a box last."""
    labels = torch.randint(-1, 2, (pictures, prompts, points)).float()
    labels[..., -2:] = torch.tensor([2.0, 3.0])
    return torch.rand(pictures, prompts, points, 2) * SIDE, labels


@torch.inference_mode()
def test_several_prompts_of_a_picture(pair):
    """Meta's decoder takes one picture and its prompts; ours several pictures with several each."""
    decoder, prompts, ours_decoder, ours_prompts = pair
    images, (coords, labels) = torch.randn(2, 256, GRID, GRID), prompts_of(2, 3, 4)
    masks, ious = SamDecoder(ours_prompts, ours_decoder, GRID, SIDE)(images, coords, labels)
    assert masks.shape == (2, 3, 4 * GRID, 4 * GRID) and ious.shape == (2, 3)
    for b in range(2):
        sparse, dense = prompts(points=(coords[b, :, :2], labels[b, :, :2]), boxes=coords[b, :, 2:].flatten(1), masks=None)
        expected, expected_iou = decoder(images[b : b + 1], prompts.get_dense_pe(), sparse, dense, multimask_output=False)
        torch.testing.assert_close(masks[b], expected[:, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ious[b], expected_iou[:, 0], atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def sam_graph(pair, tmp_path_factory):
    """The graph, and a function that runs its ONNX form, traced with other counts than it is run with."""
    graph, path = SamDecoder(pair[3], pair[2], GRID, SIDE), tmp_path_factory.mktemp("graph") / "model.onnx"
    spec, (coords, labels) = MODELS["sam_decoder"], prompts_of(2, 3, 4)
    names = tuple(t.name for t in spec.outputs)
    dynamic = {t.name: spec.dynamic_axes(t.name) for t in (*spec.inputs, *spec.outputs)}
    inputs = dict(zip((t.name for t in spec.inputs), (torch.randn(2, 256, GRID, GRID), coords, labels), strict=True))
    write_onnx(graph, inputs, names, path, dynamic)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return graph, path, lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


@pytest.mark.parametrize("counts", [(1, 1, 2), (3, 1, 2), (1, 5, 3), (2, 2, 9)])
@torch.inference_mode()
def test_graph_takes_any_counts(sam_graph, counts):
    graph, _, run = sam_graph
    inputs = (torch.randn(counts[0], 256, GRID, GRID), *prompts_of(*counts))
    found = run(dict(zip(("image_embedding", "point_coords", "point_labels"), (t.numpy() for t in inputs), strict=True)))
    for value, expected in zip(found.values(), graph(*inputs), strict=True):
        torch.testing.assert_close(torch.from_numpy(value), expected, atol=1e-4, rtol=1e-4)


def test_graph_computes_few_shapes(sam_graph):
    """Each attention needs the number of tokens and nothing else; a torch idiom that traces badly brings dozens more."""
    kinds = [node.op_type for node in onnx.load(sam_graph[1]).graph.node]
    assert kinds.count("Shape") <= 16 and kinds.count("LayerNormalization") == 10
    assert not {"Mod", "If", "Loop", "NonZero", "ReduceMean"} & set(kinds)


@torch.inference_mode()
def test_prompts_without_points_are_zero(sam_graph):
    graph, _, run = sam_graph
    image, (coords, labels) = torch.randn(3, 256, GRID, GRID), prompts_of(3, 2, 2)
    labels[0], labels[1, 1] = -1, -1
    runs = []
    found = parts(lambda arrays: runs.append(arrays["point_labels"].shape) or run(arrays))(
        {"image_embedding": image.numpy(), "point_coords": coords.numpy(), "point_labels": labels.numpy()}
    )
    assert runs == [(1, 1, 2)] * 3  # prompt by prompt, those that have a point
    expected = graph(image, coords, labels)[0]
    expected[0], expected[1, 1] = 0, 0
    np.testing.assert_allclose(found["low_res_masks"], expected.numpy(), atol=1e-4)
    assert (found["iou_predictions"] != 0).tolist() == [[False, False], [True, False], [True, True]]


@pytest.mark.parametrize(("slots", "sizes"), [(None, [1, 1, 1, 1]), (3, [3, 3])])
def test_slots_in_use_are_run_one_by_one_where_the_graph_allows_it(slots, sizes):
    """Their number is what the vectors say; all of them together only where the graph's own number is fixed."""
    vectors, runs = np.zeros((3, 3, 2), np.float32), []
    vectors[0, 0], vectors[2] = 1, [[2, 2], [3, 3], [4, 4]]

    def run(arrays):
        values = arrays["seg_embeddings"][:, :, 0]
        runs.append(values.shape[1])
        return {"low_res_masks": np.tile(values[:, :, None, None], (1, 1, 8, 8)), "iou_predictions": values}

    found = defects(run, slots)({"image_embedding": np.zeros((3, 1, 2, 2), np.float32), "seg_embeddings": vectors})
    assert runs == sizes and found["iou_predictions"].tolist() == [[1, 0, 0], [0, 0, 0], [2, 3, 4]]
    assert found["low_res_masks"][:, :, 0, 0].tolist() == [[1, NO_MASK, NO_MASK], [NO_MASK] * 3, [2, 3, 4]]


def test_an_encoder_runs_picture_by_picture():
    runs = []
    found = pictures(lambda arrays: runs.append(len(arrays["x"])) or {"y": arrays["x"] * 2})({"x": np.arange(6).reshape(3, 2)})
    assert runs == [1, 1, 1] and found["y"].tolist() == [[0, 2], [4, 6], [8, 10]]


@torch.inference_mode()
def test_slots_are_prompts_of_one_vector(pair):
    *_, decoder, prompts = pair
    graph, image, vectors = LisaDecoder(prompts, decoder, GRID, SIDE), torch.randn(2, 256, GRID, GRID), torch.randn(2, 3, 256)
    masks, ious = graph(image, vectors)
    alone, alone_iou = graph(image[1:], vectors[1:, 2:])
    torch.testing.assert_close(masks[1:, 2:], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ious[1:, 2:], alone_iou, atol=1e-4, rtol=1e-4)
