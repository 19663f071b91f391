"""The picture's own evidence: the kernel reader is the machine it was made from, the shared blocks are shared, strangers are far."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sightline_export.efficientnet import CHANNELS, LATER, load_backbone
from sightline_export.tiny import WEIGHTS, load_witness
from sightline_export.tiny_witness import Foreign, KernelReader, pooled
from sightline_training.data import cells, picture
from sightline_training.features import vision_pixels
from sklearn.svm import SVC


def pyramids(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(count, width, 4, 4, generator=generator) for key, width in CHANNELS.items()}


def test_kernel_reader_is_the_support_vector_machine():
    features = pyramids(60)
    x = pooled(features).numpy()
    axes = np.random.default_rng(0).standard_normal((x.shape[1], 16)).astype(np.float32) / 10
    z = (x - x.mean(0)) @ axes
    machine = SVC(C=10.0).fit(z, np.arange(60) % 3 == 0)
    reader = KernelReader(len(machine.support_), 16)
    found = {
        "mean": x.mean(0), "axes": axes, "vectors": machine.support_vectors_, "weights": machine.dual_coef_[0],
        "gamma": 1 / (16 * z.var()), "bias": machine.intercept_[0],
    }  # fmt: skip
    reader.load_state_dict({name: torch.tensor(np.asarray(value, np.float32)) for name, value in found.items()})
    assert np.allclose(reader(features).numpy(), machine.decision_function(z), atol=1e-3)


def test_pooled_is_mean_peak_and_deviation():
    features = pyramids(2)
    first = pooled(features)[:, : 3 * CHANNELS["s4"]].unflatten(1, (3, CHANNELS["s4"]))
    flat = features["s4"].flatten(2)
    torch.testing.assert_close(first[:, 0], flat.mean(2))
    torch.testing.assert_close(first[:, 1], flat.amax(2))
    torch.testing.assert_close(first[:, 2], flat.std(2, correction=0), atol=1e-4, rtol=1e-4)


def test_the_fine_tuned_backbone_begins_as_the_frozen_one():
    backbone = load_backbone()
    witness = load_witness(WEIGHTS / "backbone.safetensors", backbone)
    for i, (own, other) in enumerate(zip(witness.tuned._blocks, backbone._blocks, strict=True)):
        same = all(torch.equal(a, b) for a, b in zip(own.state_dict().values(), other.state_dict().values(), strict=True))
        assert same == (i < LATER)


def test_distance_is_of_the_mean_features():
    foreign = Foreign()
    foreign.mean.fill_(1.0)
    foreign.whiten.copy_(torch.eye(len(foreign.mean)) * 2)
    features = {"s16": torch.ones(1, len(foreign.mean), 2, 2)}
    assert foreign(features).item() == 0
    features["s16"][0, 3] = 2.0
    assert foreign(features).item() == pytest.approx(4.0)


def test_cells_are_known_and_drawings_are_not():
    backbone = load_backbone()
    witness = load_witness(WEIGHTS / "backbone.safetensors", backbone)
    shown = [vision_pixels(picture(cell)) for cell in cells("test")[:4]]
    rng = np.random.default_rng(0)
    shown += [rng.integers(0, 256, (256, 256, 3), dtype=np.uint8), np.full((256, 256, 3), 200, np.uint8)]
    with torch.inference_mode():
        found = witness(backbone(torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float()))[:, 1]
    assert (found[:4] < 1).all() and (found[4:] > 1).all()
    assert {name.split(".")[0] for name in load_file(WEIGHTS / "backbone.safetensors")} == {"later", "reader", "kernel", "foreign"}
