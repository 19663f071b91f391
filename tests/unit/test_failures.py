"""Counting failed requests: what Triton's metrics cannot bear must not reach them."""

from __future__ import annotations

import ast
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
from sightline_ensemble import failures

REPOSITORY = Path(__file__).parents[2] / "model_repository"


class Fragile:
    """As the stub's metric: a call before another has ended frees the other's message."""

    def __init__(self) -> None:
        self.value, self.broken, self._busy = 0, False, threading.Lock()

    def increment(self, value: int) -> None:
        self.broken = self.broken or self._busy.locked()
        with self._busy:
            time.sleep(0.001)
            self.value += value


class Family:
    COUNTER = "counter"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.made: dict[tuple[str, str], Fragile] = {}
        families.append(self)

    def Metric(self, labels: dict[str, str]) -> Fragile:  # noqa: N802
        key = labels["step"], labels["code"]
        assert key not in self.made, "made twice"
        self.made[key] = Fragile()
        return self.made[key]


families: list[Family] = []


@pytest.fixture
def backend() -> ModuleType:
    module = ModuleType("triton_python_backend_utils")
    module.MetricFamily, module.TritonModelException = Family, RuntimeError  # type: ignore[attr-defined]
    return module


def test_threads_that_fail_at_once_are_counted_one_after_the_other(backend):
    failures.declare(backend, "decode")
    with ThreadPoolExecutor(8) as pool:
        for code in ("UNAVAILABLE", "INVALID_ARGUMENT") * 40:
            pool.submit(failures.count, backend, "decode", code)
    family = families[-1]
    counted = {code: metric.value for (_, code), metric in family.made.items()}
    assert counted == {"INTERNAL": 0, "UNAVAILABLE": 40, "INVALID_ARGUMENT": 40}
    assert not any(metric.broken for metric in family.made.values())


def test_what_is_forgotten_is_made_again(backend):
    failures.count(backend, "decode", "UNAVAILABLE")
    made = len(families)
    failures.forget()
    failures.count(backend, "decode", "UNAVAILABLE")
    assert len(families) == made + 1


@pytest.mark.parametrize("step", sorted(REPOSITORY.glob("*/1/model.py")), ids=lambda path: path.parts[-3])
def test_every_step_gives_triton_its_objects_back(step: Path):
    """Those that are left when the stub's tie to Triton is cut end it with a signal: 14 core dumps at every stop."""
    model = next(node for node in ast.parse(step.read_text()).body if isinstance(node, ast.ClassDef) and node.name == "TritonPythonModel")
    finalize = next(node for node in model.body if isinstance(node, ast.FunctionDef) and node.name == "finalize")
    assert any(ast.unparse(line).startswith("steps.finish(") for line in finalize.body)
