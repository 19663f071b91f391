"""The server under test and the answers that several tests read.

`pytest tests/conformance --url HOST:PORT [--http-url HOST:PORT]` tests a server that runs already; else one is started.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import tritonclient.http
from server.conftest import Target, grpc, server  # noqa: F401  (fixtures)
from tritonclient.grpc import InferenceServerClient

from .helpers import PATIENCE_S, Answer, ask, sample_cells


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--http-url", metavar="HOST:PORT", help="HTTP address of the server named by --url (default: one port below)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Nobody may kill a step of somebody else's server."""
    if config.getoption("--url"):
        kept = [item for item in items if item.get_closest_marker("own_server") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "own_server: breaks something, so only a server that the suite started will do")


@dataclass(frozen=True)
class Seen:
    """A picture, whether ELPV calls it defective, and what the server says when it is asked nothing else."""

    picture: bytes
    defective: bool
    answer: Answer


@pytest.fixture(scope="session")
def seen(grpc: InferenceServerClient) -> list[Seen]:  # noqa: F811
    """Eight real cells, one at a time, every input at its default."""
    chosen = [*sample_cells(1.0, 4), *sample_cells(0.0, 4)]
    return [Seen(cell.path.read_bytes(), cell.defective, ask(grpc, IMAGE=cell.path.read_bytes())) for cell in chosen]


@pytest.fixture(scope="session")
def bad(seen: list[Seen]) -> Seen:
    """A cell the server calls an anomaly."""
    return next(one for one in seen if one.answer.anomaly)


@pytest.fixture(scope="session")
def good(seen: list[Seen]) -> Seen:
    """A cell the server calls normal."""
    return next(one for one in seen if not one.answer.anomaly)


@pytest.fixture(scope="session")
def http(server: Target, request: pytest.FixtureRequest) -> Iterator[tritonclient.http.InferenceServerClient]:  # noqa: F811
    host, _, port = server.grpc.rpartition(":")
    address = server.own.http if server.own else request.config.getoption("--http-url", None) or f"{host}:{int(port) - 1}"
    client = tritonclient.http.InferenceServerClient(address, connection_timeout=PATIENCE_S, network_timeout=PATIENCE_S)
    yield client
    client.close()
