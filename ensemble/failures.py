"""Failed requests on Triton's metrics port, by step and code: its own `nv_inference_request_failure` knows no codes, so that a customer's
damaged picture looks like a broken step there."""

from __future__ import annotations

import threading
from functools import cache
from types import ModuleType
from typing import Any

from .errors import INTERNAL

NAME = "sightline_requests_failed"
# Steps answer from several threads. Triton must get each metric once, and a metric that two threads increment at once ends the server:
# 24.10's stub keeps the message of the call in the metric itself (python_backend/src/metric.cc), where the second call frees the first's.
_lock = threading.Lock()


def declare(backend: ModuleType, step: str) -> None:
    """Show 0 before the first fault: Prometheus sees no increase in a counter that begins with 1."""
    count(backend, step, INTERNAL, 0)


def count(backend: ModuleType, step: str, code: str, requests: int = 1) -> None:
    """So many more requests failed in this step. `backend`: the stub's `triton_python_backend_utils`."""
    try:
        with _lock:
            metric = _metric(backend, step, code)
            if requests:
                metric.increment(requests)
    except backend.TritonModelException as error:  # the client must still be told why its request failed
        backend.Logger.log_warn(f"{step}: a failure is not counted: {error}")


def forget() -> None:
    """Give Triton its metrics back, while it can still be told: those that the interpreter's end finds let the process die of a signal."""
    with _lock:
        _metric.cache_clear()
        _family.cache_clear()


@cache
def _family(backend: ModuleType) -> Any:
    """Kept as long as the process: a family that is dropped leaves the metrics port."""
    return backend.MetricFamily(name=NAME, description="Requests failed, by step and code", kind=backend.MetricFamily.COUNTER)


@cache
def _metric(backend: ModuleType, step: str, code: str) -> Any:
    return _family(backend).Metric(labels={"step": step, "code": code})
