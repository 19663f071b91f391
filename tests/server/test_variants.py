"""The engines' GPU configurations in the real tritonserver: here it has no TensorRT, and that must be all that it minds."""

import re
import subprocess
from pathlib import Path

import pytest
from sightline_ensemble.contract import MODELS
from sightline_ensemble.machines import MACHINES
from sightline_ensemble.serve import launcher, processes
from sightline_ensemble.serve.launcher import Settings

REPOSITORY = Path(__file__).parents[2] / "model_repository"
ENGINES = [model.name for model in MODELS.values() if model.engine]
NO_BACKEND = "unable to find backend library for backend 'tensorrt'"


def said(folder: Path, variant: str, change: tuple[str, str] = ("", "")) -> str:
    """What tritonserver says about a repository of the engines alone, until it gives up."""
    for name in ENGINES:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "configs").mkdir()
        for path in (REPOSITORY / name).glob("**/*.pbtxt"):
            (folder / path.relative_to(REPOSITORY)).write_text(path.read_text().replace(*change))
    run, triton = next(processes.run_names()), launcher.find_tritonserver()
    settings = Settings(folder, "", folder.parent / "products", launcher.Ports(0, 0, 0, 0).settled("127.0.0.1"), config=variant)
    try:
        line = launcher.command(settings, triton, run)
        env = launcher.environment(settings, triton, run)
        return subprocess.run(line, env=env, capture_output=True, text=True, timeout=60).stderr
    finally:
        processes.remove_leftovers(run)


@pytest.mark.parametrize("variant", [machine.name for machine in MACHINES.values() if machine.gpu], ids=lambda name: name or "default")
def test_only_the_backend_is_missing(variant, tmp_path):
    failures = re.findall(r"failed to load '(\w+)' version 1: ([^\n]*)", said(tmp_path / "repository", variant))
    assert sorted(name for name, _ in failures) == sorted(ENGINES)
    assert all(NO_BACKEND in why for _, why in failures), failures


def test_a_fault_would_be_seen(tmp_path):
    text = said(tmp_path / "repository", "gpu16", ("preferred_batch_size: [ 2 ]", "preferred_batch_size: [ 3 ]"))
    assert "preferred size must be <= max batch size for" in text
