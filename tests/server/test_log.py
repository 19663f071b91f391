"""`--log-format json` on a real server: every line is an object, the supervisor's, tritonserver's and a broken step's."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from sightline_ensemble.serve import processes
from sightline_ensemble.serve.log import Log
from sightline_ensemble.serve.running import running
from test_serve import triton_of
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException
from waiting import within

PICKY = """
import numpy as np
import triton_python_backend_utils as pb
from sightline_ensemble import steps


class TritonPythonModel:
    def execute(self, requests):
        return steps.answer_each(requests, self.answer, "picky")

    def answer(self, request):
        if steps.array(request, "IMAGE")[0] == b"secret":
            raise ValueError('no "quoted" luck')
        return {"REPORT": steps.string("{}")}
"""


def test_every_line_is_an_object(tmp_path: Path) -> None:
    repository = toy.write(tmp_path / "models", PICKY)
    words = ("--repository", str(repository), "--products", str(tmp_path / "products"), "--log-format", "json", "--verbose")
    with running(*words) as server:
        with InferenceServerClient(server.grpc) as client, pytest.raises(InferenceServerException, match="INTERNAL: picky: ValueError"):
            picture = InferInput("IMAGE", [1], "BYTES")
            picture.set_data_from_numpy(np.array([b"secret"], object))
            client.infer("inspect", [picture], request_id="part-7")
        victim = next(iter(processes.stubs(triton_of(server))))
        os.kill(victim, signal.SIGKILL)
        assert within(30, lambda: sum('"ready"' in line for line in server.lines) == 2)
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.lines]
    assert all({"time", "level", "event", "message"} <= set(line) for line in lines)
    assert all(datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0 for line in lines)
    own = [line for line in lines if line["event"] != "tritonserver"]
    assert [line["event"] for line in own] == ["starting", "ready", "restarting", "ready", "stopped"]
    assert own[0]["grpc"] == server.grpc and own[0]["profile"] == ""
    assert own[1]["seconds"] > 0 and own[1]["steps"] == 2 and own[1]["restarts"] == 0
    assert own[2]["level"] == "error" and "the step's process died" in own[2]["reason"] and own[2]["restarts"] == 1
    broken = [line for line in lines if "part-7" in line["message"]]
    assert [(line["level"], line["message"]) for line in broken] == [("error", "picky: request 'part-7': ValueError: no \"quoted\" luck")]
    assert {"info", "error"} <= {line["level"] for line in lines} and "secret" not in "".join(server.lines)


@pytest.mark.parametrize(
    "line, level, message",
    [
        ('E1110 12:34:56.789012 123 server.cc:241] "CudaDriverHelper has not"', "error", "CudaDriverHelper has not"),
        ('W1110 12:34:56.789012 7 metrics.cc:90] "said \\"so\\""', "warning", 'said "so"'),
        ("I1110 12:34:56.789012 123456 grpc_server.cc:2451] Started at 0.0.0.0:8001", "info", "Started at 0.0.0.0:8001"),
        (" 3# 0x00007F6C23AD44A3 in libstdc++.so.6", "warning", " 3# 0x00007F6C23AD44A3 in libstdc++.so.6"),
    ],
)
def test_tritonserver_tells_its_level(line: str, level: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Log(structured=True).relay(line)
    told: dict[str, Any] = json.loads(capsys.readouterr().err)
    assert (told["event"], told["level"], told["message"]) == ("tritonserver", level, message)
    Log().relay(line)
    assert capsys.readouterr().err == line + "\n"


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Log().say("ready", "ready in 2 s", seconds=2.0)
    Log().say("restarting", "restarting: dead", "error", reason="dead")
    assert capsys.readouterr() == ("sightline-serve: ready in 2 s\n", "sightline-serve: restarting: dead\n")
