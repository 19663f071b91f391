"""The last row of the table of errors: a step breaks. Needs a server of our own, for somebody has to break it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from tritonclient.utils import InferenceServerException

from .helpers import ask, check_error, iou


def stub_of(step: str, launcher: psutil.Process) -> psutil.Process:
    """The process that runs a Python step."""
    for child in launcher.children(recursive=True):
        line = " ".join(child.cmdline())
        if "triton_python_backend_stub" in line and f"/{step}/" in line:
            return child
    raise AssertionError(f"no process runs {step}")


def wait_for(ready: bool, own, seconds: float) -> float:
    """Seconds until /ready says so."""
    start = time.monotonic()
    while own.status()[0] != ready:
        assert time.monotonic() - start < seconds, f"/ready did not turn {ready} within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.mark.own_server
@pytest.mark.parametrize("step", ["report", "lisa_engine"])
def test_a_broken_step(server, grpc, bad, step):
    assert server.own is not None and server.own.status()[0]
    with ThreadPoolExecutor(3) as pool:
        flying = [pool.submit(ask, grpc, IMAGE=bad.picture) for _ in range(3)]
        time.sleep(0.2)
        stub_of(step, psutil.Process(server.own.process.pid)).kill()
        wait_for(False, server.own, 5)
        for one in flying:
            error = one.exception(60)
            if error is None:  # it was past the step already: then its answer is whole
                assert iou(one.result().mask, bad.answer.mask) >= 0.99
            else:
                assert isinstance(error, InferenceServerException)
                check_error(error, "INTERNAL" if "INTERNAL" in str(error.status()) else "UNAVAILABLE")
    wait_for(True, server.own, 30)
    again = ask(grpc, IMAGE=bad.picture)
    assert again.report["verdict"] == "anomaly" and iou(again.mask, bad.answer.mask) >= 0.99
