"""Options of the whole suite, and what several folders of it compare with."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest


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
