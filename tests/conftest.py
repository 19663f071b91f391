"""Options of the whole suite, and what several folders of it compare with."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
REPOSITORY = Path(__file__).parents[1] / "model_repository"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", metavar="HOST:PORT", help="gRPC address of a running server to test, instead of one of our own")


@pytest.fixture(scope="session")
def meta() -> types.ModuleType:
    """Meta's own `segment_anything`."""
    import random_sam

    return random_sam.meta()


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
