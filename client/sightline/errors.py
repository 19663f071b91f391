"""Why a picture was not inspected: one exception class per error of the contract. None of them is ever a verdict."""

from __future__ import annotations

import re

import grpc

# What Triton puts before a step's own line, and the status word that the line begins with.
_PREFIX = re.compile(r"^(\[request id: [^\]]*\]\s*|in ensemble '[^']*',\s*)+")
_WORD = re.compile(r"^(INVALID_ARGUMENT|NOT_FOUND|UNAVAILABLE|CANCELLED|INTERNAL): ")
# A Triton that ends says so as NOT_FOUND once its models are gone.
_STOPPING = re.compile(r"server is stopping|has stopped accepting|has no available versions", re.IGNORECASE)
# An error inside a stream has no gRPC status. A step's line begins with the word; Triton's own lines do not.
_TRITONS = {
    "UNAVAILABLE": re.compile(r"maximum queue size|request timeout expired", re.IGNORECASE),
    "INVALID_ARGUMENT": re.compile(r"unexpected shape for input", re.IGNORECASE),
}


class NotInspected(Exception):
    """The picture has no verdict.

    `message` is one line, `status` the gRPC status word, `transient` whether to try again; `request_id` and `traceparent` name the
    request where there was one.
    """

    transient = False

    def __init__(self, message: str, status: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.request_id = ""
        self.traceparent = ""

    def as_json(self) -> dict[str, str]:
        name = {"request_id": self.request_id} if self.request_id else {}
        return {"type": type(self).__name__, "status": self.status, "message": self.message, **name}


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


class Cancelled(NotInspected):
    """The request was given up by the caller, or the client was closed."""


class ServerFault(NotInspected):
    """A step of the server is broken, or it answered something that is not a report of this contract."""


def from_status(code: grpc.StatusCode, details: str | None, url: str = "") -> NotInspected:
    """The exception for a gRPC status and its text."""
    word, message = _worded(" ".join((details or "").split()))
    status = word if word and code.name in ("INTERNAL", "UNKNOWN") else code.name
    if _STOPPING.search(message):
        status = "UNAVAILABLE"
    kind = _class_of(status, message.lower())
    if status == "DEADLINE_EXCEEDED":
        message = "timeout: no answer before the deadline"
    elif kind is Unreachable:
        cause = message.rpartition(": ")[2] if "last error: " in message else message
        message = f"no answer from {url or 'the server'} ({cause})"
    return kind(message or f"the server answered {status} without a word", status)


def status_of(line: str) -> grpc.StatusCode:
    """The status of an error inside a stream, from its text alone; INTERNAL where that does not tell."""
    word, message = _worded(line)
    word = word or next((status for status, own in _TRITONS.items() if own.search(message)), "INTERNAL")
    return grpc.StatusCode[word]


def _worded(line: str) -> tuple[str, str]:
    """The status word that a step's line begins with, empty where there is none; and what it says."""
    message = _PREFIX.sub("", line)
    word = _WORD.match(message)
    return (word[1], message[word.end() :]) if word else ("", message)


def _class_of(status: str, text: str) -> type[NotInspected]:
    if status == "NOT_FOUND":
        return ServerFault if "unknown model" in text else UnknownProduct
    if status == "UNAVAILABLE":
        return _unavailable(text)
    if status == "RESOURCE_EXHAUSTED":
        return InvalidInput if "larger than max" in text else Overloaded
    kinds = {"INVALID_ARGUMENT": InvalidInput, "DEADLINE_EXCEEDED": Timeout, "CANCELLED": Cancelled}
    return kinds.get(status, ServerFault)


def _unavailable(text: str) -> type[NotInspected]:
    """One status for three causes. gRPC's own connection errors may speak of a timeout too, so they are told apart first."""
    if "failed to connect" in text or "resolution failed" in text:
        return Unreachable
    if "queue full" in text or "maximum queue size" in text:
        return Overloaded
    return Timeout if "timeout" in text else Unreachable
