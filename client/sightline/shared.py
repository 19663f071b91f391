"""Large inputs through shared memory, where client and server are on one host and the server allows it (Triton's system shared memory).

Nothing is asked of the user: the first large request tries to register a region; a server that refuses is sent bytes from then on.
Regions are files of /dev/shm that their process holds a lock on as long as it lives, whatever container it runs in. So what a killed client
has left is found and removed by the next one: the file when it is made, and what the server holds with its first large request.
"""

from __future__ import annotations

import atexit
import mmap
import os
import secrets
import socket
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from .protocol import message

FOLDER = Path("/dev/shm")
LEAST, MOST = 512 << 10, 512 << 20  # bytes: below, gRPC is as fast; above, for all regions of a server together, /dev/shm is not ours
STEP = 1 << 20
PATIENCE_S, AGAIN_S = 1.0, 5.0
PREFIX = "sightline-client-"


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
        _sweep()
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

    def make(self, size: int, seconds: float = PATIENCE_S) -> Region | None:
        """A new region, registered with the server; None where that does not work within so many seconds, now or ever."""
        size, end = -(-size // STEP) * STEP, time.monotonic() + min(seconds, PATIENCE_S)
        with self._lock:
            held = sum(region.size for region in self._all)
        if held + size > MOST or not self.wants(size):
            return None
        try:
            region = _create(size)
        except OSError:  # no room
            return None
        try:
            self._ask(end, "Register", name=region.name, key=f"/{region.name}", offset=0, byte_size=size)
        except (grpc.RpcError, ValueError) as error:
            region.unlink()
            self._refused(error)
            return None
        with self._lock:
            self._all.add(region)
        self._tidy(end)
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
        end = time.monotonic() + PATIENCE_S
        with suppress(grpc.RpcError, ValueError):
            for region in regions:
                self._ask(end, "Unregister", name=region.name)

    def _refused(self, error: Exception) -> None:
        """A server that cannot be reached is asked again later; one that says no is not."""
        code = error.code() if isinstance(error, grpc.RpcError) else None
        text = (error.details() or "") if isinstance(error, grpc.RpcError) else ""
        away = code is grpc.StatusCode.DEADLINE_EXCEEDED or (code is grpc.StatusCode.UNAVAILABLE and "restricted" not in text)
        self._not_before = time.monotonic() + AGAIN_S
        self._off = not away

    def _tidy(self, end: float) -> None:
        """Unregisters what is ours and dropped, and, once, what dead clients have left; as far as there is time for it.

        After the server has taken a region of ours: so it sees the files that we see, and those we miss are gone.
        """
        with suppress(grpc.RpcError, ValueError):
            if not self._looked:
                status = self._ask(end, "Status")
                self._looked = True
                for name in [region.key for region in status.regions]:
                    if name.startswith(PREFIX) and _reap(FOLDER / name):
                        self._ask(end, "Unregister", name=name)
            while region := self._next_doomed():
                self._ask(end, "Unregister", name=region.name)

    def _next_doomed(self) -> Region | None:
        with self._lock:
            return self._doomed.pop() if self._doomed else None

    def _ask(self, end: float, method: str, **values: Any) -> Any:
        request = message(f"SystemSharedMemory{method}Request", **values)
        return getattr(self._stub, f"SystemSharedMemory{method}")(request, timeout=max(1e-3, end - time.monotonic()))


def is_here(address: str) -> bool:
    """Whether a server at this address may be on this host. Whether it really is, registering shows."""
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    return address.startswith("unix:") or host in ("localhost", "127.0.0.1", "::1", socket.gethostname())


def _create(size: int) -> Region:
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    file = os.open(FOLDER / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        if not _locked(file) or not (FOLDER / name).exists():  # another client has taken it for a dead one's before we had it
            raise BlockingIOError(f"{name} was swept")
        os.posix_fallocate(file, 0, size)  # now, rather than a SIGBUS while it is written
        return Region(name, size, mmap.mmap(file, size))  # keeps the file open, and the lock with it
    except BaseException:
        (FOLDER / name).unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _sweep() -> None:
    """Removes the regions of clients that were killed."""
    for path in FOLDER.glob(f"{PREFIX}*"):
        _reap(path)


def _reap(path: Path) -> bool:
    """Removes a region that no process holds any more. Whether it is gone; one that we may not open is another user's."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    try:
        if not _locked(file):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(file)


def _locked(file: int) -> bool:
    """Takes the lock on an open file, if nobody has it."""
    import fcntl  # none on Windows, where there is no /dev/shm either

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


_everybody: weakref.WeakSet[Shared] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for shared in list(_everybody):
        shared.close()
