"""Names that stand for several servers: `dns:///NAME:PORT`, looked up again as long as requests come.

Left to gRPC, nobody could say which of the servers a request has been sent to, and a repetition might meet the same one.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

AGAIN_S, PATIENCE_S = 5.0, 1.0
CONNECT_S = 0.5
_URL = re.compile(r"dns:///([^:/\[\]]+:\w+)")


class Name:
    """One name and the addresses that were found last. A look-up may take long, so no request waits for it: a thread does it."""

    def __init__(self, authority: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.authority = authority
        self._clock = clock
        self._found: tuple[str, ...] = ()
        self._looking = threading.Thread()
        self._lock = threading.Lock()
        self._due = clock()
        self.addresses()
        self._looking.join(PATIENCE_S)

    def addresses(self) -> tuple[str, ...]:
        """Those of the last look-up that found any; where none did, gRPC is given the name and says what is wrong with it."""
        with self._lock:
            if self._clock() >= self._due and not self._looking.is_alive():
                self._due = self._clock() + AGAIN_S
                self._looking = threading.Thread(target=self._look, daemon=True)
                self._looking.start()
        return self._found or (f"dns:///{self.authority}",)

    def _look(self) -> None:
        host, _, port = self.authority.rpartition(":")
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return
        if len({family for family, *_ in answers}) > 1:
            answers = [answer for answer in answers if _takes(answer[0], answer[4])] or answers
        self._found = tuple(dict.fromkeys(_address(answer[4]) for answer in answers))


def name(url: str) -> Name | None:
    """The name in `dns:///NAME:PORT`; None for an address, or a form of name that only gRPC knows."""
    found = _URL.fullmatch(url)
    return Name(found[1]) if found else None


def _address(place: tuple[Any, ...]) -> str:
    host, port = place[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _takes(family: int, place: tuple[Any, ...]) -> bool:
    """Whether somebody takes connections there. Of a name's IPv4 and IPv6 addresses often only one has a server."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_S)
            probe.connect(place)
            return True
    except OSError:
        return False
