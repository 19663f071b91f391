"""Why a picture was not inspected: one exception class per error of the contract. None of them is ever a verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

# What Triton puts before a step's own line.
_PREFIX = re.compile(r"^(\[request id: [^\]]*\]\s*|in ensemble '[^']*',\s*)+")


class NotInspected(Exception):
    """The picture has no verdict. `message` is one line, `status` the gRPC status word, `transient` whether to try again."""

    transient = False

    def __init__(self, message: str, status: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status

    def as_json(self) -> dict[str, str]:
        return {"type": type(self).__name__, "status": self.status, "message": self.message}


class InvalidInput(NotInspected):
    """An input is wrong: picture, box, points, prompt, history, name, action, dtype or shape. The message names it."""


class UnknownProduct(NotInspected):
    """No product of this name is enrolled."""


class Overloaded(NotInspected):
    """The server's queue is full; nothing was computed. Try again later."""

    transient = True


class Timeout(NotInspected):
    """The deadline passed before the answer was there."""


class Unreachable(NotInspected):
    """No server answers at the address, or it is starting or stopping."""

    transient = True


class ServerFault(NotInspected):
    """A step of the server is broken, or it answered something that is not a report of this contract."""


def from_status(code: grpc.StatusCode, details: str | None, url: str = "") -> NotInspected:
    """The exception for a gRPC status and its text."""
    message = _PREFIX.sub("", " ".join((details or "").split())) or f"the server answered {code.name} without a word"
    kind = _class_of(code.name, message.lower())
    if kind is Unreachable:
        message = f"no server answers at {url} ({message.rpartition('last error: ')[2]})"
    if kind is Timeout and code.name == "DEADLINE_EXCEEDED":
        message = "timeout: no answer before the deadline"
    return kind(message, code.name)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Raises gRPC's errors as the contract's."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_status(error.code(), error.details(), url) from None


def _class_of(status: str, text: str) -> type[NotInspected]:
    if status == "NOT_FOUND":
        return ServerFault if "unknown model" in text else UnknownProduct
    if status == "UNAVAILABLE":
        return _unavailable(text)
    if status == "RESOURCE_EXHAUSTED":
        return InvalidInput if "larger than max" in text else Overloaded
    return {"INVALID_ARGUMENT": InvalidInput, "DEADLINE_EXCEEDED": Timeout}.get(status, ServerFault)


def _unavailable(text: str) -> type[NotInspected]:
    """One status for three causes. gRPC's own connection errors may speak of a timeout too, so they are told apart first."""
    if "failed to connect" in text or "resolution failed" in text:
        return Unreachable
    if "queue full" in text or "maximum queue size" in text:
        return Overloaded
    return Timeout if "timeout" in text else Unreachable
