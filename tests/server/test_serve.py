"""`sightline-serve` itself, on a toy repository: starting, refusing, stopping, dying, hanging."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import toy
import tritonclient.grpc as triton
from sightline_ensemble.contract import MODELS
from sightline_ensemble.serve import processes
from sightline_ensemble.serve.running import Running, running
from tritonclient.utils import InferenceServerException
from waiting import within


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return toy.write(tmp_path / "models")


def arguments(repository: Path) -> tuple[str, ...]:
    return "--repository", str(repository), "--products", str(repository.parent / "products")


def triton_of(server: Running) -> int:
    return next(p.pid for p in processes.children(server.process.pid) if processes.command_line(p.pid)[0].endswith("tritonserver"))


def leftovers(server: Running) -> list[str]:
    """Files of this server in shared memory or the temporary directory."""
    places = (processes.SHARED_MEMORY, Path("/tmp"))
    return [path.name for place in places for path in place.glob(f"sightline_{server.process.pid}_*")]


def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sightline_ensemble.serve.cli", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_clean_stop_leaves_nothing(repository: Path, how: signal.Signals) -> None:
    with running(*arguments(repository)) as server:
        assert server.status() == (True, {"ready": True, "live": True, "reason": "", "profile": "", "restarts": 0})
        family = [triton_of(server), *processes.stubs(triton_of(server))]
        assert len(family) == 3 and leftovers(server)
        server.process.send_signal(how)
        assert server.process.wait(20) == 0
    assert [pid for pid in family if processes.process(pid)] == []
    assert leftovers(server) == []


def test_killed_supervisor_takes_everything_along_and_its_files_go_with_the_next_start(repository: Path) -> None:
    with running(*arguments(repository)) as server:
        family = [triton_of(server), *processes.stubs(triton_of(server))]
        server.process.kill()
        assert within(10, lambda: not any(processes.process(pid) for pid in family))
    processes.remove_stale_leftovers()
    assert leftovers(server) == []


def test_files_of_the_living_are_left_alone() -> None:
    mine = processes.SHARED_MEMORY / f"{next(processes.run_names())}_ledger"
    stranger = processes.SHARED_MEMORY / "sightline_999999999_1_0_ledger"
    for path in (mine, stranger):
        path.write_bytes(b"")
    try:
        assert processes.remove_stale_leftovers() == [stranger.name]
        assert mine.exists()
    finally:
        mine.unlink()


@pytest.mark.parametrize("victim", ["tritonserver", "inspect_0_0", "other_0_0"])
def test_a_dead_process_is_noticed_and_replaced(repository: Path, victim: str) -> None:
    with running(*arguments(repository)) as server:
        triton = triton_of(server)
        named = {name: pid for pid, name in processes.stubs(triton).items()} | {"tritonserver": triton}
        os.kill(named[victim], signal.SIGKILL)
        assert within(1.0, lambda: not server.status()[0])
        assert victim in server.status()[1]["reason"]
        assert server.status("live")[0]
        assert within(15, lambda: server.status()[0])
        assert server.status()[1]["restarts"] == 1
        assert not processes.process(triton)
        assert len([name for name in leftovers(server) if "_0_" in name and name.endswith("backends")]) == 0
    assert leftovers(server) == []


@contextmanager
def unanswered_streams(address: str) -> Iterator[None]:
    """A stream that nobody answers, every half second."""
    image = triton.InferInput("IMAGE", [1], "BYTES")
    image.set_data_from_numpy(np.array([b"x"], np.object_))
    over = threading.Event()

    def ask() -> None:
        with triton.InferenceServerClient(address) as client, suppress(InferenceServerException):  # until the server is restarted
            client.start_stream(lambda result, error: None)
            while not over.wait(0.5):
                client.async_stream_infer("inspect_stream", [image])

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def test_a_step_that_hangs_is_noticed_by_the_canary_though_streams_are_taken_in(repository: Path) -> None:
    toy.swallowing(repository, "inspect_stream")
    with running(*arguments(repository), "--canary-seconds", "3") as server:
        stubs = {name: pid for pid, name in processes.stubs(triton_of(server)).items()}
        with unanswered_streams(server.grpc):
            time.sleep(1)
            os.kill(stubs["inspect_0_0"], signal.SIGSTOP)
            assert within(20, lambda: not server.status()[0])
        assert within(30, lambda: server.status()[0])
        assert server.status()[1]["restarts"] == 1


def test_crash_loop_backs_off_and_stays_stoppable(repository: Path) -> None:
    with running(*arguments(repository)) as server:
        (repository / "other" / "1" / "model.py").write_text(toy.BROKEN)
        os.kill(triton_of(server), signal.SIGKILL)
        assert within(20, lambda: server.status()[1]["restarts"] >= 3)
        assert not server.status()[0]
        begin = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - begin < 10
    assert leftovers(server) == []


def test_a_model_that_cannot_load_ends_the_start(tmp_path: Path) -> None:
    done = run_cli(
        *arguments(toy.write(tmp_path / "models", toy.BROKEN)), *(f"--{name}-port=0" for name in ("grpc", "http", "metrics", "health"))
    )
    assert done.returncode == 1
    assert "cannot start: tritonserver ended with status 1 while loading" in done.stderr


def test_busy_port_is_named(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_cli(*arguments(repository), f"--grpc-port={port}", "--http-port=0", "--metrics-port=0", "--health-port=0")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("choose another with --grpc-port") and str(port) in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_artefacts_are_named_with_the_command(tmp_path: Path) -> None:
    engines = tuple(name for name, model in MODELS.items() if model.engine)
    repository = toy.write(tmp_path / "models", names=engines)
    done = run_cli(*arguments(repository), "--profile", "tiny")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert engines[0] in done.stderr and "sightline-export tiny" in done.stderr


def test_missing_repository(tmp_path: Path) -> None:
    done = run_cli("--repository", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "no model repository" in done.stderr


def test_clients_cannot_load_models(repository: Path) -> None:
    with running(*arguments(repository)) as server:
        request = urllib.request.Request(f"http://{server.http}/v2/repository/models/other/unload", b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=5)
        assert refusal.value.code == 403
