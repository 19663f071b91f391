"""SAM checkpoints in the released layout, made with Meta's own package: small ones (real picture size and decoder), and one vit_b."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from sightline_ensemble.artefacts import load_manifest
from sightline_export import precision, sam_encoder
from sightline_export.cli import main
from sightline_export.half import typed
from sightline_export.onnx_file import save
from sightline_export.sam_encoder import SamSize


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Minutes of export and of the encoder's real work: not in every run. test_sam.py tests all of it in small."""
    for item in items:
        if "vit_b" in getattr(item, "fixturenames", ()):
            item.add_marker("sizes")


SMALL = SamSize("vit_b", 48, 3, 3, (1,))


def randomise(sam: torch.nn.Module) -> None:
    """Meta's initialisation leaves positions at zero: what is never different from zero is not tested."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.2 if "rel_pos" in name else 0.5)
        if "norm" in name or name.endswith(("neck.1.weight", "neck.1.bias", "neck.3.weight", "neck.3.bias")):
            parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="session")
def small(meta):
    """Meta's model, random weights."""
    torch.manual_seed(0)
    build = sys.modules["segment_anything.build_sam"]  # the package hides its module behind a function of the same name
    sam = build._build_sam(SMALL.width, SMALL.depth, SMALL.heads, list(SMALL.global_blocks)).eval()
    randomise(sam)
    return sam


@pytest.fixture
def as_vit_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test `vit_b` means SMALL."""
    monkeypatch.setitem(sam_encoder.SIZES, "vit_b", SMALL)


@pytest.fixture
def checkpoint(small, as_vit_b, tmp_path: Path) -> Callable[..., Path]:
    """Writes the small checkpoint, after a change where one is given."""

    def write(change: Callable[[dict], None] | None = None) -> Path:
        state = {name: value.clone() for name, value in small.state_dict().items()}
        if change:
            change(state)
        path = tmp_path / "sam_vit_b_small.pth"
        torch.save(state, path)
        return path

    return write


@dataclass(frozen=True)
class VitB:
    """A vit_b of Meta's registry with random weights, and the repository that `sightline-export sam` made of it."""

    meta: torch.nn.Module
    repository: Path

    def graph(self, step: str) -> Path:
        return load_manifest(self.repository / step, "real").path("model.onnx")

    def half(self, step: str, path: Path) -> None:
        """Write the fp16 twin, as the first rung has it: judging it takes a minute, and is what test_sam.py does in small."""
        twin = ir.load(self.graph(step))
        typed(twin, "fp16", precision.keeper(()))
        save(twin, path)


@pytest.fixture(scope="session")
def vit_b(meta, tmp_path_factory) -> VitB:
    folder = tmp_path_factory.mktemp("vit_b")
    torch.manual_seed(0)
    sam = meta.sam_model_registry["vit_b"]().eval()
    randomise(sam)
    torch.save(sam.state_dict(), folder / "sam_vit_b.pth")
    line = ["sam", "--model", "vit_b", "--checkpoint", folder / "sam_vit_b.pth", "--repository", folder / "r"]
    assert main([*map(str, line), "--pictures", "1", "--csv", str(folder / "parity.csv")]) == 0
    return VitB(sam, folder / "r")
