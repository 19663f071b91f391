"""What /proc says about our processes, and what dead ones left in /dev/shm. Linux only."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
# glibc keeps what is freed: in eight heaps a core, for some 300 threads, and after one large picture in pieces up to that size.
# With one heap a core, and large pieces given back, tritonserver holds 130 instead of 280 MB after 5,000 requests on two cores.
HEAP = {"MALLOC_ARENA_MAX": str(os.cpu_count() or 2), "MALLOC_MMAP_THRESHOLD_": str(8 * 2**20)}
_RUN = re.compile(r"^sightline_(\d+)_(\d+)_\d+(?:_|$)")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Process:
    """One child process. `started` is in clock ticks since boot: with it a reused process id is told apart."""

    pid: int
    parent: int
    state: str  # R, S, D, Z, T, ...
    started: int


def process(pid: int) -> Process | None:
    """The process as /proc shows it, or None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the command's name before it may hold blanks and brackets
    return Process(pid, int(fields[1]), fields[0], int(fields[19]))


def children(parent: int) -> list[Process]:
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [p for p in found if p is not None and p.parent == parent]


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty for a zombie or where there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def stubs(server: int) -> dict[int, str]:
    """Process id -> name of the model instance, for each living python stub of a tritonserver."""
    found = {p.pid: command_line(p.pid) for p in children(server) if p.state != "Z"}
    return {pid: line[-2] for pid, line in found.items() if len(line) > 2 and line[0].endswith("triton_python_backend_stub")}


def dead(known: dict[int, str], server: int) -> list[str]:
    """Names of those `known` stubs that have died: gone, or zombies (Triton 24.10 never reaps nor restarts them)."""
    alive = {p.pid for p in children(server) if p.state not in "ZX"}
    return [name for pid, name in known.items() if pid not in alive]


# --- runs: one start of tritonserver, known by a name that tells whose it is ---------------------------------------------
def run_names() -> Iterator[str]:
    """`sightline_<pid>_<start of that pid>_<n>`: a name for each start of the server by this process."""
    me = process(os.getpid())
    assert me is not None
    number = 0
    while True:
        yield f"sightline_{me.pid}_{me.started}_{number}"
        number += 1


def remove_leftovers(run: str) -> list[str]:
    """Delete what one run left in shared memory and the temporary directory; returns the names."""
    return _remove(lambda name: name == run or name.startswith(run + "_"))


def remove_stale_leftovers() -> list[str]:
    """The same for every run whose supervisor is dead."""
    return _remove(_is_stale)


def _is_stale(name: str) -> bool:
    match = _RUN.match(name)
    if match is None:
        return False
    owner = process(int(match[1]))
    return owner is None or owner.started != int(match[2])


def _remove(chosen: Callable[[str], bool]) -> list[str]:
    removed = []
    for place in (SHARED_MEMORY, Path(tempfile.gettempdir())):
        for path in place.glob("sightline_*"):
            if not chosen(path.name):
                continue
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            removed.append(path.name)
    return sorted(removed)


# --- life and death ------------------------------------------------------------------------------------------------------
def die_with_parent() -> None:
    """Runs in a new child: it is killed when the thread that started it ends, however that ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def adopt_orphans() -> None:
    """Stubs that outlive their server become our children, so that they can be waited for (and, as process 1, reaped)."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def reap(group: int, seconds: float) -> bool:
    """Wait until no process of the group is left; True when that came true in time. Its leader has been waited for already."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if os.waitpid(-group, os.WNOHANG)[0] == 0:
                time.sleep(0.02)
        except ChildProcessError:
            return True
    return False
