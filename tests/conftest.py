"""Options of the whole suite, and what several folders of it compare with."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
REPOSITORY = Path(__file__).parents[1] / "model_repository"
WORKER = "PYTEST_XDIST_WORKER"


def pytest_configure() -> None:
    """Two workers on two cores: each other's threads would only be waited for."""
    if WORKER in os.environ:
        import torch

        torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", metavar="HOST:PORT", help="gRPC address of a running server to test, instead of one of our own")


@pytest.fixture(scope="session")
def meta() -> types.ModuleType:
    """Meta's own `segment_anything`."""
    import random_sam

    return random_sam.meta()


@pytest.fixture(scope="session")
def golden_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the repository with golden checkpoint A, exported at 32 bits, as the only profile: `golden`; once for all workers."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if WORKER in os.environ else base) / "golden"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _golden(draft := made.with_suffix(".part"))
            draft.rename(made)
    return made


def _golden(repository: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "unit"))
    import golden_a
    from sightline_export.lisa import export_lisa
    from sightline_export.lisa_install import Order

    shutil.copytree(REPOSITORY, repository, ignore=lambda folder, names: [n for n in names if Path(folder).name == "1" and "." not in n])
    export_lisa(Order(golden_a.checkpoint(), golden_a.CLIP, 32, repository, "golden"))
