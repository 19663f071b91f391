"""Options of the whole suite, and what several folders of it compare with."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1] / "model_repository"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", metavar="HOST:PORT", help="gRPC address of a running server to test, instead of one of our own")


@pytest.fixture(scope="session")
def meta() -> Iterator[types.ModuleType]:
    """Meta's own `segment_anything`. It imports torchvision for helpers that no test uses; there is no CPU build of that here."""
    names = ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms", "torchvision.transforms.functional")
    missing = object()
    kept = {name: sys.modules.get(name, missing) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for name, attributes in {names[2]: ("batched_nms", "box_area"), names[4]: ("resize", "to_pil_image")}.items():
        for attribute in attributes:
            setattr(sys.modules[name], attribute, None)
    import segment_anything

    for name, module in kept.items():  # at once: others look for the real one
        sys.modules.pop(name) if module is missing else sys.modules.__setitem__(name, module)
    yield segment_anything


@pytest.fixture(scope="session")
def golden_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the repository with golden checkpoint A, exported at 32 bits, as the only profile: `golden`."""
    sys.path.insert(0, str(Path(__file__).parent / "unit"))
    import golden_a
    from sightline_export.lisa import export_lisa
    from sightline_export.lisa_install import Order

    made = tmp_path_factory.mktemp("golden") / "repository"
    shutil.copytree(REPOSITORY, made, ignore=lambda folder, names: [n for n in names if Path(folder).name == "1" and "." not in n])
    export_lisa(Order(golden_a.checkpoint(), golden_a.CLIP, 32, made, "golden"))
    return made
