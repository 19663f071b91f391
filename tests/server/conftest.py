"""A real server for the whole session: our own, or the one named with `--url`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sightline
from sightline_ensemble.serve.running import Running, running
from tritonclient.grpc import InferenceServerClient

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
PROFILE = "tiny"


@dataclass(frozen=True)
class Target:
    """The server under test. `own`: the process we started, None where `--url` names somebody else's."""

    grpc: str
    own: Running | None = None


@contextmanager
def tiny_server(products: Path, *arguments: str) -> Iterator[Running]:
    """A server on the tiny artefacts, which are made where they are missing."""
    if not (REPOSITORY / "lisa_engine" / "1" / PROFILE / "manifest.json").exists():
        subprocess.run([Path(sys.executable).parent / "sightline-export", "tiny", "--repository", REPOSITORY], check=True)
    with running("--repository", str(REPOSITORY), "--profile", PROFILE, "--products", str(products), *arguments) as server:
        yield server


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if url := request.config.getoption("--url"):
        yield Target(url)
        return
    with tiny_server(tmp_path_factory.mktemp("products"), "--cache-bytes", "0") as own:  # the same picture is computed every time
        yield Target(own.grpc, own)


@pytest.fixture(scope="session")
def grpc(server: Target) -> Iterator[InferenceServerClient]:
    """Triton's own client: what the contract says, without our library in between."""
    with InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture(scope="session")
def client(server: Target) -> Iterator[sightline.Client]:
    with sightline.Client(server.grpc) as client:
        yield client
