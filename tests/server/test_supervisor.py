"""Every step's process is killed in turn while requests run: noticed, replaced, and nobody gets a wrong answer (bar B8)."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sightline
from conftest import tiny_server
from sightline_ensemble.serve import processes
from sightline_ensemble.serve.running import Running
from test_serve import leftovers, triton_of
from waiting import within

pytestmark = pytest.mark.alone

NOTICED_SECONDS, SERVED_SECONDS = 5.0, 30.0
# The kill comes at another moment of the requests' way each time: they take about half a second.
MOMENTS = (0.1, 0.25, 0.4)
# One of each kind: the first, a graph, one that calls others, the decoupled engine, the last, the orchestrator, one outside of ensembles.
KILLED = ("decode", "sam_encoder", "expert", "lisa_engine", "report", "inspect_stream", "products")


@dataclass
class Traffic:
    """What the requests of a few clients came to, until `over`."""

    answers: list[sightline.Report] = field(default_factory=list)
    errors: list[sightline.NotInspected] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def client(self, address: str, picture: bytes) -> None:
        with sightline.Client(address, timeout=20) as client:
            while not self.over.is_set():
                try:
                    self.answers.append(client.inspect(picture))
                except sightline.NotInspected as error:
                    self.errors.append(error)
                    time.sleep(0.1)


@contextmanager
def traffic(server: Running, picture: bytes, clients: int = 3) -> Iterator[Traffic]:
    done = Traffic()
    threads = [threading.Thread(target=done.client, args=(server.grpc, picture), daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        done.over.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "a request hangs"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all kills; at the end it must stop cleanly and leave nothing."""
    with tiny_server(tmp_path_factory.mktemp("products")) as server:
        yield server
        triton = triton_of(server)
        family = [triton, *processes.stubs(triton)]
        assert server.stop() == 0
    assert [pid for pid in family if processes.process(pid)] == []
    assert leftovers(server) == []


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A cracked cell, of the test part."""
    spec = importlib.util.find_spec("elpv_dataset")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "data" / "images" / "cell0001.png").read_bytes()


@pytest.fixture(scope="module")
def right(own: Running, picture: bytes) -> sightline.Report:
    with sightline.Client(own.grpc) as client:
        return client.inspect(picture)


def kill(server: Running, model: str) -> None:
    named = {name: pid for pid, name in processes.stubs(triton_of(server)).items()}
    victims = [pid for name, pid in named.items() if name.startswith(f"{model}_0")]
    assert victims, f"no process of {model} among {sorted(named)}"
    os.kill(victims[0], signal.SIGKILL)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("model", KILLED)
def test_killed_step(own: Running, picture: bytes, right: sightline.Report, model: str) -> None:
    assert within(SERVED_SECONDS, lambda: own.status()[0])
    before = own.status()[1]["restarts"]
    with traffic(own, picture) as seen:
        assert within(10, lambda: len(seen.answers) >= 2), "no traffic to disturb"
        time.sleep(MOMENTS[len(model) % len(MOMENTS)])
        kill(own, model)
        killed = time.monotonic()
        assert within(NOTICED_SECONDS, lambda: not own.status()[0]), "still ready"
        assert model in own.status()[1]["reason"]
        assert within(SERVED_SECONDS, lambda: own.status()[0]), "not ready again"
        answered = len(seen.answers)
        assert within(killed + SERVED_SECONDS - time.monotonic(), lambda: len(seen.answers) > answered), "ready, but no answer"
    assert own.status()[1]["restarts"] == before + 1
    assert {answer.verdict for answer in seen.answers} == {right.verdict}
    assert {answer.locations for answer in seen.answers} == {right.locations}
    assert all(isinstance(error, sightline.Unreachable | sightline.ServerFault | sightline.Overloaded) for error in seen.errors)
