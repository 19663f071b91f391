"""The CPU image's start command and health check and the chart's probes, run here as they stand; what the server shows to the outside."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sightline
from sightline_ensemble.contract import MODELS
from sightline_ensemble.serve import processes
from sightline_ensemble.serve.running import Running, running
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException
from waiting import within

from . import metrics
from .chart import ROOT, manifests, merged, one, values
from .collector import Collector, collector, milliseconds, model_of, request_of
from .images import DOCKER, stages

IMAGE = stages(DOCKER / "Dockerfile.cpu")[-1]
CONTAINER = one(manifests(values("values-cpu.yaml")), "Deployment")["spec"]["template"]["spec"]["containers"][0]
# Not the server's own: Prometheus' and the rules' own records.
FOREIGN = {"up", "sightline_queue_milliseconds", "sightline_waiting"}
# Only with a GPU: https://github.com/triton-inference-server/server docs/user_guide/metrics.md
ON_GPU = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
QUICK_EXPORT = {"OTEL_BSP_SCHEDULE_DELAY": "200"}


def healthy(server: Running) -> bool:
    """The image's HEALTHCHECK, only with the port that this server got."""
    program, *words = IMAGE.health_command()
    line = [
        sys.executable if program == "python3" else program,
        *(word.replace(":8003/", f":{server.health.split(':')[1]}/") for word in words),
    ]
    try:
        return subprocess.run(line, capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def probe(server: Running, name: str) -> bool:
    """One of the chart's probes as the node asks it."""
    asked = CONTAINER[name]["httpGet"]
    assert asked["port"] == "health"
    try:
        url = f"http://127.0.0.1:{server.health.split(':')[1]}{asked['path']}"
        with urllib.request.urlopen(url, timeout=CONTAINER[name]["timeoutSeconds"]):
            return True
    except OSError:
        return False


def successes(server: Running) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http.split(':')[1]}/v2/models/inspect/stats", timeout=5) as answer:
        return json.load(answer)["model_stats"][0]["inference_stats"]["success"]["count"]


@pytest.fixture(scope="module")
def traced() -> Iterator[Collector]:
    with collector() as heard:
        yield heard


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, traced: Collector, audit: Path) -> Iterator[Running]:
    """In the image the working directory is the repository's, the path begins with .venv/bin, and /products is a volume."""
    if not (ROOT / "model_repository" / "lisa_engine" / "1" / "tiny" / "manifest.json").exists():
        subprocess.run([Path(sys.executable).with_name("sightline-export"), "tiny"], cwd=ROOT, check=True)
    command = [word.replace("/products", str(tmp_path_factory.mktemp("products"))) for word in IMAGE.command()]
    program = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        words = ("--trace-url", traced.url, "--audit", str(audit))
        with running(*words, program=program, env=QUICK_EXPORT, ready=False) as started:
            yield started
            assert started.stop() == 0
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[InferenceServerClient]:
    server.wait_ready()
    with InferenceServerClient(f"127.0.0.1:{server.grpc.split(':')[1]}") as client:
        yield client


def cell(number: int) -> bytes:
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec and spec.origin
    return (Path(spec.origin).parent / "data" / "images" / f"cell{number:04}.png").read_bytes()


def test_ready_only_after_the_first_real_inference(server: Running) -> None:
    assert not healthy(server) and not probe(server, "startupProbe"), "healthy before anything is loaded"
    assert probe(server, "livenessProbe")
    assert within(200, lambda: healthy(server))
    assert successes(server) >= 1 and probe(server, "startupProbe") and probe(server, "readinessProbe")


def test_dashboard_alerts_and_autoscaler_read_metrics_that_exist(server: Running, client: InferenceServerClient) -> None:
    with sightline.Client(server.grpc) as own, pytest.raises(sightline.InvalidInput):
        own.inspect(b"no picture")  # a failure's series begins with the first
    have = set(FOREIGN)
    for address in (server.metrics, server.health):
        with urllib.request.urlopen(f"http://127.0.0.1:{address.split(':')[1]}/metrics", timeout=5) as answer:
            have |= metrics.served(answer.read().decode())
    h100 = values("values-h100.yaml")
    asked = {f"panel {title}": expression for title, all_of in metrics.dashboard().items() for expression in all_of}
    asked |= metrics.rules(h100) | metrics.rules(merged(h100, {"autoscaling": {"kind": "keda"}}))
    assert len(asked) > 20 and metrics.instances()[0] in have
    unknown = {where: missing for where, expression in asked.items() if (missing := metrics.names(expression) - have - ON_GPU)}
    assert unknown == {}


EVERY = set(MODELS) - {"products", "inspect_stream"}
STREAMED = EVERY - {"lisa", "explain"} | {"prepare", "judge"}


def verdict(server: Running, how: str, picture: bytes, name: str, header: str) -> str:
    if how == "overlooked":  # as tritonserver hands a header on whose trace it has not begun
        image = InferInput("IMAGE", [1], "BYTES")
        image.set_data_from_numpy(np.array([picture], object))
        with InferenceServerClient(f"127.0.0.1:{server.grpc.split(':')[1]}") as raw:
            answer = raw.infer("inspect", [image], request_id=name, parameters={"traceparent": header})
        return json.loads(answer.as_numpy("REPORT")[0])["verdict"]
    with sightline.Client(server.grpc) as own:
        words = {"request_id": name, "traceparent": header}
        report = own.inspect(picture, **words) if how == "unary" else [*own.stream(picture, **words)][-1].report
        assert report.request_id == name
        return report.verdict


@pytest.mark.parametrize("how, steps, number", [("unary", EVERY, 1), ("stream", STREAMED, 2), ("overlooked", EVERY, 3)])
def test_a_trace_and_a_request_id_reach_every_step(
    server: Running, client: InferenceServerClient, traced: Collector, audit: Path, how: str, steps: set[str], number: int
) -> None:
    trace, parent, name = secrets.token_hex(16), secrets.token_hex(8), f"part-7 {how}"
    said = verdict(server, how, cell(number), name, f"00-{trace}-{parent}-01")  # a picture of its own: what is cached takes no time
    assert within(10, lambda: steps <= {model_of(span) for span in traced.of(trace)}), steps - {model_of(span) for span in traced.of(trace)}
    assert within(10, lambda: parent in (above := traced.above(trace)) and above <= {parent, *traced.of_id(trace)})
    assert {request_of(span) for span in traced.of(trace) if model_of(span)} == {name}
    assert max(milliseconds(span) for span in traced.of(trace) if model_of(span) == "lisa_engine") > 5
    assert traced.services == {"sightline"}
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["verdict"] for line in lines if line["request"] == name] == [said]


def test_who_asks_for_no_trace_gets_none(server: Running, client: InferenceServerClient, traced: Collector) -> None:
    with sightline.Client(server.grpc) as own:
        own.inspect(cell(4), request_id="untraced")
    time.sleep(1)
    assert "untraced" not in {request_of(span) for span in traced.spans}


@pytest.mark.alone
def test_perf_analyzer_sweeps_with_real_pictures(server: Running, client: InferenceServerClient, tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "perf_analyzer" / "sweep.py"
    words = ("--url", f"127.0.0.1:{server.grpc.split(':')[1]}", "--only", "segment", "--requests", "2", "--out", str(tmp_path))
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    loads, steps = (list(csv.DictReader((tmp_path / f"perf_analyzer{name}.csv").open())) for name in ("", "_steps"))
    assert [row["at"] for row in loads] == ["1", "4"] and all(0 < float(row["p50_ms"]) <= float(row["p99_ms"]) for row in loads)
    assert {"decode", "sam_encoder", "sam_decoder", "cutout"} == {row["step"] for row in steps}
    assert "| segment | segment | concurrency | 4 |" in done.stdout


@pytest.mark.parametrize("call", ["unload_model", "update_trace_settings", "update_log_settings", "get_system_shared_memory_status"])
def test_what_a_client_may_not_do(client: InferenceServerClient, call: str) -> None:
    words = {"unload_model": ("inspect",), "update_trace_settings": ("inspect", {}), "update_log_settings": ({},)}.get(call, ())
    with pytest.raises(InferenceServerException, match="restricted"):
        getattr(client, call)(*words)


def test_not_ready_within_5_seconds_of_a_dead_step(server: Running, client: InferenceServerClient) -> None:
    """Last: it breaks the server."""
    triton = next(p.pid for p in processes.children(server.process.pid) if processes.command_line(p.pid)[0].endswith("tritonserver"))
    stub = next(pid for pid, name in processes.stubs(triton).items() if name.startswith("report_0"))
    ready = CONTAINER["readinessProbe"]
    assert healthy(server) and probe(server, "readinessProbe") and ready["failureThreshold"] == 1
    os.kill(stub, signal.SIGKILL)
    begin = time.monotonic()
    while probe(server, "readinessProbe"):
        time.sleep(ready["periodSeconds"])
    assert time.monotonic() - begin < 5 and not healthy(server)
    assert probe(server, "livenessProbe"), "the supervisor is at work, the pod need not be replaced"
