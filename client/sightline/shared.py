"""Large inputs through shared memory, where client and server are on one host and the server allows it (Triton's system shared memory).

Nothing is asked of the user: the first large request tries to register a region; a server that refuses is sent bytes from then on.
Regions are files of /dev/shm named after the process that made them, so that what a killed client has left is found and removed by
the next one, on the disk and in the server.
"""

from __future__ import annotations

import atexit
import mmap
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grpc

from .protocol import message

FOLDER = Path("/dev/shm")
LEAST, MOST = 512 << 10, 512 << 20  # bytes: below, gRPC is as fast; above, for all regions of a server together, /dev/shm is not ours
STEP = 1 << 20
PATIENCE_S, AGAIN_S = 1.0, 5.0
_NAME = re.compile(r"sightline-client-(\d+)-(\d+)-(\d+)-\d+")
_count = iter(range(1, 2**62))


@dataclass(frozen=True, eq=False)
class Region:
    """A piece of memory that the server has mapped too. Its content belongs to one request at a time."""

    name: str
    size: int
    memory: mmap.mmap = field(repr=False)

    def write(self, contents: list[bytes]) -> list[int]:
        """Lays them one behind the other; where each begins."""
        offsets, end = [], 0
        for content in contents:
            offsets.append(end)
            self.memory[end : end + len(content)] = content
            end += len(content)
        return offsets

    def unlink(self) -> None:
        with suppress(OSError):
            (FOLDER / self.name).unlink()
        with suppress(BufferError, ValueError):
            self.memory.close()


class Shared:
    """The regions of one server. Safe to share between threads. `stub` is a blocking one of its gRPC service."""

    def __init__(self, stub: Any) -> None:
        self._stub, self._pid = stub, os.getpid()
        self._lock = threading.Lock()
        self._all: set[Region] = set()
        self._free: list[Region] = []
        self._doomed: list[Region] = []
        self._off, self._not_before = not FOLDER.is_dir(), 0.0
        self._looked = False
        _everybody.add(self)

    def wants(self, size: int) -> bool:
        return LEAST <= size and not self._off and time.monotonic() >= self._not_before and os.getpid() == self._pid

    def take(self, size: int) -> Region | None:
        """A free region, without asking the server."""
        with self._lock:
            fits = [region for region in self._free if region.size >= size]
            if not fits:
                return None
            region = min(fits, key=lambda region: region.size)
            self._free.remove(region)
            return region

    def make(self, size: int) -> Region | None:
        """A new region, registered with the server; None where that does not work, now or ever."""
        size = -(-size // STEP) * STEP
        with self._lock:
            held = sum(region.size for region in self._all)
        if held + size > MOST or not self.wants(size):
            return None
        try:
            region = _create(size)
        except OSError:  # no room
            return None
        try:
            self._tidy()
            request = {"name": region.name, "key": f"/{region.name}", "offset": 0, "byte_size": size}
            self._stub.SystemSharedMemoryRegister(message("SystemSharedMemoryRegisterRequest", **request), timeout=PATIENCE_S)
        except (grpc.RpcError, ValueError) as error:
            region.unlink()
            self._refused(error)
            return None
        with self._lock:
            self._all.add(region)
        return region

    def free(self, region: Region) -> None:
        """The request is answered: the next one may have the region."""
        with self._lock:
            if region in self._all:
                self._free.append(region)

    def drop(self, region: Region) -> None:
        """The request was given up: the server may still read the region, so nobody else gets it."""
        with self._lock:
            self._all.discard(region)
            self._doomed.append(region)
        region.unlink()

    def lost(self) -> None:
        """The server has forgotten its regions: it was started anew."""
        with self._lock:
            regions, self._all, self._free, self._doomed = self._all, set(), [], []
        for region in regions:
            region.unlink()

    def close(self) -> None:
        """Unregisters and removes all of them."""
        if os.getpid() != self._pid:  # a forked child: they are its parent's
            return
        self._off = True
        with self._lock:
            regions, self._all, self._free, self._doomed = [*self._all, *self._doomed], set(), [], []
        for region in regions:
            region.unlink()
        with suppress(grpc.RpcError, ValueError):
            for region in regions:
                self._unregister(region.name)

    def _refused(self, error: Exception) -> None:
        """A server that cannot be reached is asked again later; one that says no is not."""
        code = error.code() if isinstance(error, grpc.RpcError) else None
        text = (error.details() or "") if isinstance(error, grpc.RpcError) else ""
        away = code is grpc.StatusCode.DEADLINE_EXCEEDED or (code is grpc.StatusCode.UNAVAILABLE and "restricted" not in text)
        self._not_before = time.monotonic() + AGAIN_S
        self._off = not away

    def _tidy(self) -> None:
        """Unregisters what is ours and dropped, and, once, what dead clients have left."""
        with self._lock:
            doomed, self._doomed = [region.name for region in self._doomed], []
            looked, self._looked = self._looked, True
        if not looked:
            status = self._stub.SystemSharedMemoryStatus(message("SystemSharedMemoryStatusRequest"), timeout=PATIENCE_S)
            doomed += [region.key for region in status.regions if _is_dead(region.key)]
        for name in doomed:
            self._unregister(name)

    def _unregister(self, name: str) -> None:
        self._stub.SystemSharedMemoryUnregister(message("SystemSharedMemoryUnregisterRequest", name=name), timeout=PATIENCE_S)


def is_here(address: str) -> bool:
    """Whether a server at this address may be on this host. Whether it really is, registering shows."""
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    return address.startswith("unix:") or host in ("localhost", "127.0.0.1", "::1", socket.gethostname())


def _create(size: int) -> Region:
    _sweep()
    name = f"sightline-client-{_namespace()}-{os.getpid()}-{_birth(os.getpid())}-{next(_count)}"
    file = os.open(FOLDER / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(file, 0, size)  # now, rather than a SIGBUS while it is written
        return Region(name, size, mmap.mmap(file, size))
    except BaseException:
        (FOLDER / name).unlink()
        raise
    finally:
        os.close(file)


@cache
def _sweep() -> None:
    """Removes the regions of clients that were killed; once a process."""
    for path in _left():
        path.unlink(missing_ok=True)


def _left() -> Iterator[Path]:
    return (path for path in FOLDER.glob("sightline-client-*") if _is_dead(path.name))


def _is_dead(name: str) -> bool:
    """Whether a region's process has ended. Those of another container, whose processes are not seen here, are let alone."""
    parts = _NAME.fullmatch(name)
    return parts is not None and int(parts[1]) == _namespace() and _birth(int(parts[2])) != int(parts[3])


def _namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _birth(pid: int) -> int:
    """When a process began, in clock ticks; 0: there is none. Two processes of one number differ in it."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


_everybody: weakref.WeakSet[Shared] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for shared in list(_everybody):
        shared.close()
