"""Finds a tritonserver and starts it on a model repository, the same way on a laptop and in NVIDIA's container."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO

from sightline_ensemble import artefacts, machines, plans
from sightline_ensemble.contract import IN_FLIGHT_LIMIT, MODELS
from sightline_ensemble.serve import drain, processes
from sightline_ensemble.serve.log import Log
from sightline_ensemble.serve.outside import Outside

CONTAINER_SERVER = Path("/opt/tritonserver/bin/tritonserver")
# Tensors between two engine steps: some 11 MB a request in flight. Beyond the pool (64 MiB by default) they go through the host.
GPU_POOL_BYTES = 2**30
# What tritonserver says about GPUs on a machine without one: no fault, and nothing a reader can act on.
_NOISE = ("CudaDriverHelper has not been initialized", "unable to create stream for")


class ServeError(Exception):
    """The server cannot be started; the text says why and what to do."""


@dataclass(frozen=True)
class Ports:
    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002
    health: int = 8003

    def settled(self, host: str) -> Ports:
        """The same with 0 replaced by free ports; ServeError where a given one is taken."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen = [port for port in given.values() if port]
        if len(set(chosen)) < len(chosen):
            raise ServeError(f"the four ports must differ: {given}")
        held = {name: _bound(host, name, port) for name, port in given.items()}  # all at once, so that they differ
        settled = {name: sock.getsockname()[1] for name, sock in held.items()}
        for sock in held.values():
            sock.close()
        return Ports(**settled)


def _bound(host: str, name: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ServeError(f"{name} port {port} on {host} cannot be used ({error.strerror}); choose another with --{name}-port") from None
    return sock


@dataclass(frozen=True)
class Settings:
    repository: Path
    profile: str
    products: Path
    ports: Ports = field(default_factory=Ports)
    host: str = "127.0.0.1"
    config: str = ""  # name of the configs/<name>.pbtxt to use; empty: config.pbtxt, the production one
    cache_bytes: int = 0
    exit_seconds: int = 10
    verbose: bool = False
    outside: Outside = field(default_factory=Outside)
    log: Log = field(default_factory=Log)


@dataclass(frozen=True)
class Triton:
    """A tritonserver. `wheel`: the nvidia-pytriton wheel's folder, None for a complete installation (NVIDIA's container)."""

    binary: Path
    wheel: Path | None


def find_tritonserver() -> Triton:
    """NVIDIA's installation where there is one, else the server inside the nvidia-pytriton package."""
    if CONTAINER_SERVER.exists():
        return Triton(CONTAINER_SERVER, None)
    spec = importlib.util.find_spec("pytriton")  # found, not imported: its own dependencies are not installed
    for folder in spec.submodule_search_locations or () if spec else ():
        wheel = Path(folder) / "tritonserver"
        if (wheel / "bin" / "tritonserver").exists():
            return Triton(wheel / "bin" / "tritonserver", wheel)
    raise ServeError("no tritonserver: install the pinned one with `make venv` (package nvidia-pytriton)")


def default_profile(repository: Path) -> str:
    """The only profile there are artefacts of; ServeError where there is none or a choice."""
    found = {name for model in _artefact_models(repository) for name in artefacts.profiles(repository / model)}
    if not found and _artefact_models(repository):
        raise ServeError(f"{_artefact_models(repository)[0]}: no artefacts; make them with `sightline-export tiny`")
    if len(found) > 1:
        raise ServeError(f"several profiles ({', '.join(sorted(found))}): choose one with --profile")
    return found.pop() if found else ""


def check_artefacts(repository: Path, profile: str) -> None:
    """ServeError unless every model that needs artefacts has this profile's, complete and with the hashes of its manifest."""
    for model in _artefact_models(repository):
        try:
            artefacts.verify(artefacts.load_manifest(repository / model, profile))
        except artefacts.ArtefactError as error:
            raise ServeError(str(error)) from None


def check_plans(repository: Path, config: str, profile: str) -> None:
    """ServeError unless every TensorRT plan that `configs/<config>.pbtxt` or config.pbtxt names fits this machine."""
    try:
        plans.check_repository(repository, config, profile)
    except artefacts.ArtefactError as error:
        raise ServeError(str(error)) from None


def _artefact_models(repository: Path) -> list[str]:
    return [model.name for model in MODELS.values() if (model.engine or model.gpu) and (repository / model.name).is_dir()]


def backend_directory(wheel: Path, run: str) -> Path:
    """A temporary `--backend-directory`: Triton wants the stub for this Python beside the backend, the wheel keeps them apart."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    parts = (
        wheel / "backends" / "python" / "libtriton_python.so",
        wheel / "backends" / "python" / "triton_python_backend_utils.py",
        wheel / "python_backend_stubs" / version / "triton_python_backend_stub",
    )
    if missing := [part.name for part in parts if not part.exists()]:
        raise ServeError(f"nvidia-pytriton has no {missing[0]} for Python {version}; use Python 3.11")
    folder = Path(tempfile.gettempdir()) / f"{run}_backends"
    (folder / "python").mkdir(parents=True)
    for part in parts:
        (folder / "python" / part.name).symlink_to(part)
    return folder


def environment(settings: Settings, triton: Triton, run: str) -> dict[str, str]:
    """What tritonserver and, through it, every stub gets. The stub looks its Python up on PATH and takes libpython by name."""
    env = processes.HEAP | {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    env |= {"SIGHTLINE_PRODUCTS": str(settings.products.resolve()), "SIGHTLINE_RUN": run}
    env |= settings.outside.environment()
    if settings.profile:
        env[artefacts.PROFILE_VARIABLE] = settings.profile
    libraries = sysconfig.get_config_var("LIBDIR")
    if triton.wheel and libraries and any(Path(libraries).glob("libpython3*.so.1.0")):
        env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (libraries, env.get("LD_LIBRARY_PATH"))))
    return env


def command(settings: Settings, triton: Triton, run: str) -> list[str]:
    """The whole command line."""
    ports, host = settings.ports, settings.host
    line = [str(triton.binary), f"--model-repository={settings.repository.resolve()}", "--disable-auto-complete-config"]
    line += ["--model-control-mode=explicit", "--load-model=*", f"--exit-timeout-secs={settings.exit_seconds}"]
    line += [f"--grpc-port={ports.grpc}", f"--http-port={ports.http}", f"--metrics-port={ports.metrics}"]
    line += [f"--grpc-address={host}", f"--http-address={settings.outside.http_host(host)}", f"--metrics-address={host}"]
    line += settings.outside.arguments(wheel=triton.wheel is not None)
    line += [f"--backend-config=python,shm-region-prefix-name={run}_", f"--log-info={str(settings.verbose).lower()}"]
    # A step's calls of other models: beyond its pool (32 by default) they wait in no order, and some for ever.
    line.append(f"--backend-config=python,thread-pool-size={IN_FLIGHT_LIMIT}")
    if settings.config:
        line.append(f"--model-config-name={settings.config}")
    if settings.config == "cpu":
        line += ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]
    else:
        line.append(f"--cuda-memory-pool-byte-size=0:{GPU_POOL_BYTES}")
    if settings.cache_bytes:
        line.append(f"--cache-config=local,size={settings.cache_bytes}")
    if triton.wheel:
        line += [f"--backend-directory={backend_directory(triton.wheel, run)}", f"--cache-directory={triton.wheel / 'caches'}"]
    return line


class Server:
    """One running tritonserver in a process group of its own, which dies with the thread that made it."""

    def __init__(self, settings: Settings, triton: Triton, run: str) -> None:
        self.settings, self.run = settings, run
        self.last_lines: deque[str] = deque(maxlen=20)
        self._process = subprocess.Popen(
            command(settings, triton, run),
            env=environment(settings, triton, run),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone
            preexec_fn=processes.die_with_parent,
        )
        assert self._process.stdout is not None
        threading.Thread(target=self._relay, args=(self._process.stdout,), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        host = self.settings.outside.http_host(self.settings.host).replace("0.0.0.0", "127.0.0.1")
        return f"http://{host}:{self.settings.ports.http}"

    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def stop(self) -> bool:
        """Let it finish what runs, then end it and everything of it; False where it had to be killed."""
        end = time.monotonic() + self.settings.exit_seconds
        drain.empty(self.run, end, self.ended)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(max(0.0, end - time.monotonic()) + 5)
            clean = True
        except subprocess.TimeoutExpired:
            clean = False
        self.kill()
        return clean

    def kill(self) -> None:
        """End it and its stubs at once and remove their shared memory."""
        processes.kill_group(self.pid)
        self._process.wait()
        processes.reap(self.pid, seconds=10)
        processes.remove_leftovers(self.run)

    def _relay(self, output: IO[bytes]) -> None:
        for line in _quiet(output):
            self.last_lines.append(line)
            self.settings.log.relay(line)


def _quiet(output: IO[bytes]) -> Iterator[str]:
    for raw in output:
        line = raw.decode(errors="replace").rstrip()
        if line and not any(noise in line for noise in _NOISE):
            yield line


def which_config(triton: Triton, asked: str | None) -> str:
    """`cpu` beside the wheel's server, which has no GPU backend; in NVIDIA's container what the smallest GPU's memory is enough for."""
    if asked is not None:
        return asked
    memory = [] if triton.wheel else machines.gpu_memory_mib()
    return machines.for_memory(min(memory)) if memory else "cpu"
