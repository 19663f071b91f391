"""What NVIDIA's model-analyzer needs to try one engine step's instances and batches: `python benchmarks/perf_analyzer/analyzer.py MODEL`.

model-analyzer is no dependency (600 MB, a virtual environment of its own). It writes a config.pbtxt for each variant and starts
tritonserver itself, so it gets a repository whose config.pbtxt is this machine's, and a server that finds our Python. Prints its
command.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from sightline_ensemble.artefacts import load_manifest
from sightline_ensemble.serve import launcher, processes
from sightline_ensemble.serve.launcher import Ports, Settings

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fetch import ROOT, fetch  # noqa: E402

FOLDER = ROOT / "build" / "model_analyzer"
REPOSITORY = ROOT / "model_repository"
ENGINES = ("sam_encoder", "vision_encoder", "lisa_decoder")
FREE = {"slots": 4}  # of an input's free dimensions, as Sightline fills them


def shapes(model: str, profile: str) -> list[str]:
    """perf_analyzer's shape of each input, from the step's graph."""
    manifest = load_manifest(REPOSITORY / model, profile)
    graph = next(name for name in sorted(manifest.files) if name.endswith(".onnx"))
    session = onnxruntime.InferenceSession(manifest.path(graph))
    dims = {given.name: [FREE.get(dim, dim) for dim in given.shape[1:]] for given in session.get_inputs()}
    return [f"{name}:{','.join(map(str, shape))}" for name, shape in dims.items()]


def settings(model: str, profile: str, gpu: bool, folder: Path) -> dict[str, Any]:
    """model-analyzer's configuration: instances, batches and concurrency, every one with every other."""
    ports = Ports(0, 0, 0, 0).settled("127.0.0.1")
    count = {"measurement-mode": "count_windows", "measurement-request-count": 30, "stability-percentage": 999}
    searched = {
        "model_config_parameters": {
            "max_batch_size": [4, 8],
            "instance_group": [{"kind": "KIND_GPU" if gpu else "KIND_CPU", "count": [1, 2]}],
        },
        "parameters": {"batch_sizes": 1, "concurrency": [1, 4, 8]},
        "perf_analyzer_flags": {"shape": shapes(model, profile), "percentile": 95, **count},
    }
    return {
        "model_repository": str(folder / "repository"),
        "output_model_repository_path": str(folder / "variants"),
        "override_output_model_repository": True,
        "checkpoint_directory": str(folder / "checkpoints"),
        "export_path": str(folder / "results"),
        "triton_launch_mode": "local",
        "triton_server_path": str(folder / "tritonserver"),
        "triton_output_path": str(folder / "tritonserver.log"),
        "triton_http_endpoint": f"localhost:{ports.http}",
        "triton_grpc_endpoint": f"localhost:{ports.grpc}",
        "triton_metrics_url": f"http://localhost:{ports.metrics}/metrics",
        "perf_analyzer_path": str(fetch()),
        "client_protocol": "grpc",
        "run_config_search_disable": True,
        **({} if gpu else {"gpus": []}),
        "profile_models": {model: searched | ({} if gpu else {"cpu_only": True})},
    }


def prepare(model: str, profile: str, config: str, folder: Path = FOLDER) -> Path:
    """The configuration's path, with all that it names."""
    shutil.rmtree(folder, ignore_errors=True)
    copied = folder / "repository" / model
    shutil.copytree(REPOSITORY / model, copied)
    if (own := copied / "configs" / f"{config}.pbtxt").exists():
        own.replace(copied / "config.pbtxt")
    server = folder / "tritonserver"
    server.write_text(f'#!/bin/sh\nSIGHTLINE_PROFILE="{profile}" exec "{sys.executable}" "{Path(__file__).resolve()}" --server "$@"\n')
    server.chmod(0o755)
    path = folder / "analyze.yaml"  # JSON is YAML too
    path.write_text(json.dumps(settings(model, profile, config != "cpu", folder), indent=2) + "\n")
    return path


def serve(words: Sequence[str]) -> None:
    """Become the tritonserver that `sightline-serve` would start, with model-analyzer's arguments."""
    triton, run = launcher.find_tritonserver(), next(processes.run_names())
    env = launcher.environment(Settings(REPOSITORY, os.environ["SIGHTLINE_PROFILE"], FOLDER / "products"), triton, run)
    line = [str(triton.binary), *words, "--disable-auto-complete-config", f"--backend-config=python,shm-region-prefix-name={run}_"]
    if triton.wheel:
        line += [f"--backend-directory={launcher.backend_directory(triton.wheel, run)}"]
    os.execve(line[0], line, env)


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--server"]:
        serve(arguments[1:])
    top = argparse.ArgumentParser(description="Prepare model-analyzer for an engine step and print its command.")
    top.add_argument("model", choices=ENGINES)
    top.add_argument("--profile", default="tiny", help="artefacts (default: %(default)s)")
    top.add_argument("--config", metavar="NAME", help="configs/NAME.pbtxt (default: this machine's, as sightline-serve chooses)")
    chosen = top.parse_args(arguments)
    path = prepare(chosen.model, chosen.profile, launcher.which_config(launcher.find_tritonserver(), chosen.config))
    print(f"model-analyzer profile --config-file {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
