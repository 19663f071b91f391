"""What the sweep makes of perf_analyzer's words: rows, tables, and the tables in the documentation."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from .chart import ROOT

sys.path.insert(0, str(ROOT / "benchmarks" / "perf_analyzer"))
import analyzer  # noqa: E402
import pictures  # noqa: E402
import report  # noqa: E402

SAID = """
Request Rate: 1.5 inference requests per second
  Client:
    Request count: 25
  Composing models:
  prepare, version: 1
      Inference count: 25
      Execution count: 25
      Successful request count: 25
      Avg request latency: 184341 usec (overhead 10894 usec + queue 1759 usec + compute 171688 usec)

    Composing models:
    sam_encoder, version: 1
        Inference count: 24
        Execution count: 16
        Successful request count: 24
        Avg request latency: 124983 usec (overhead 5 usec + queue 91 usec + compute input 110 usec + compute infer 124332 usec + compute output 444 usec)
"""  # noqa: E501
CSV = """Request Rate,Inferences/Second,Client Send,p50 latency,p90 latency,p95 latency,p99 latency,request/response
2.5,2.17466,9,855427,1248536,1574354,1865174,14
1.5,1.4,20,662864,865233,1041823,1136132,26
"""


def test_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    loads = report.loads(tmp_path / "a.csv", "open loop", "inspect")
    assert [row["at"] for row in loads] == ["1.5", "2.5"]
    assert loads[1] == {
        "scenario": "open loop", "model": "inspect", "load": "requests a second", "at": "2.5", "answered_per_second": "2.175",
        "p50_ms": "855.4", "p90_ms": "1248.5", "p95_ms": "1574.4", "p99_ms": "1865.2",
    }  # fmt: skip
    step = {"step": "sam_encoder", "requests": "24", "mean_batch": "1.50", "queue_ms": "0.1", "compute_ms": "124.3", "total_ms": "125.0"}
    assert report.steps(SAID, "open loop") == [{"scenario": "open loop", "at": "1.5", **step}]


@pytest.mark.parametrize("model", pictures.MODELS)
def test_requests_carry_real_pictures(model: str) -> None:
    requests = pictures.requests(model, 5, 96)
    assert len(requests) == 5
    for request in requests:
        content = base64.b64decode(request["IMAGE"]["content"]["b64"])
        assert struct.unpack("<I", content[:4])[0] == len(content) - 4 and content[4:8] == b"\x89PNG"
    assert set(pictures.shapes(model)[1::2]) == {f"{name}:{','.join(map(str, given['shape']))}" for name, given in requests[0].items()}


def test_the_documentation_shows_the_committed_measurements() -> None:
    shown = report.DOCUMENT.read_text().split(report.START)[1].split(report.END)[0].strip()
    assert shown == (report.tables() if (report.RESULTS / report.LOADS).exists() else "")


def test_what_model_analyzer_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyzer, "fetch", lambda: Path("perf_analyzer"))
    told = json.loads(analyzer.prepare("vision_encoder", "tiny", "cpu", tmp_path / "out").read_text())
    model = told["profile_models"]["vision_encoder"]
    assert model["perf_analyzer_flags"]["shape"] == ["vision_pixels:3,256,256"] and model["cpu_only"] and told["gpus"] == []
    assert analyzer.shapes("lisa_decoder", "tiny") == ["image_embedding:256,32,32", "seg_embeddings:4,256"]
    own = Path(told["model_repository"]) / "vision_encoder"
    assert (own / "config.pbtxt").read_text() == (ROOT / "model_repository" / "vision_encoder" / "configs" / "cpu.pbtxt").read_text()
    done = subprocess.run([told["triton_server_path"], "--help"], capture_output=True, text=True, timeout=60)
    assert "--model-repository" in done.stdout + done.stderr
