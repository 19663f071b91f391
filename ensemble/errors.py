"""Errors of a request: one line, its code first (`INVALID_ARGUMENT: BOX: expected ...`).

The code stands in the message because Triton's BLS turns every code into INTERNAL, HTTP into 400, and data (the engine's
`status`) has none: `code_of` reads it back. No traces and no paths ever go into a message.
"""

from __future__ import annotations

import logging
import re

INVALID_ARGUMENT = "INVALID_ARGUMENT"
NOT_FOUND = "NOT_FOUND"
UNAVAILABLE = "UNAVAILABLE"
CANCELLED = "CANCELLED"
INTERNAL = "INTERNAL"
CODES = (INVALID_ARGUMENT, NOT_FOUND, UNAVAILABLE, CANCELLED, INTERNAL)

_PREFIXES = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', |Failed to process the request\(s\)[^:]*: |Message: )+")
_CODE = re.compile(rf"^({'|'.join(CODES)}): ")
# Triton's own words for "not now": a full queue, a model being reloaded, a server that stops.
_TRITON_UNAVAILABLE = re.compile(
    r"maximum queue size|timeout expired|not ready|stopped accepting|is stopping|has no available versions", re.I
)
_LONGEST = 400


class RequestError(Exception):
    """A request that cannot be answered: `code` is one of `CODES`, `message` says what, which input, what was expected.

    relayed: another step has failed so, and has counted it (failures.py).
    """

    relayed = False

    def __init__(self, code: str, message: str) -> None:
        assert code in CODES, code
        super().__init__(f"{code}: {one_line(message)}")
        self.code = code


def one_line(text: str) -> str:
    """Control characters and line ends become spaces; at most 400 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def invalid(name: str, expected: str) -> RequestError:
    """`name` is the input's name; `expected` says what is wrong and what was expected."""
    return RequestError(INVALID_ARGUMENT, f"{name}: {expected}")


def not_found(name: str, what: str) -> RequestError:
    return RequestError(NOT_FOUND, f"{name}: {what}")


def queue_full(limit: int) -> RequestError:
    return RequestError(UNAVAILABLE, f"queue full: {limit} requests are in flight, try again later")


def stopping() -> RequestError:
    return RequestError(UNAVAILABLE, "the server is stopping, try another one")


def timed_out() -> RequestError:
    return RequestError(UNAVAILABLE, "timeout: the request's time limit passed before its answer was ready")


def cancelled() -> RequestError:
    return RequestError(CANCELLED, "cancelled by the client")


def broken(step: str, error: BaseException) -> RequestError:
    """What nobody foresaw: the step's name and the exception's type, for its text may hold paths."""
    return RequestError(INTERNAL, f"{step}: {type(error).__name__}")


def strip_prefixes(message: str) -> str:
    """The message without what Triton puts before it (`in ensemble '…', `)."""
    return _PREFIXES.sub("", one_line(message))


def code_of(message: str) -> str:
    """The code of a message that lost it, e.g. through BLS; INTERNAL where it names none."""
    line = strip_prefixes(message)
    if match := _CODE.match(line):
        return match.group(1)
    return UNAVAILABLE if _TRITON_UNAVAILABLE.search(line) else INTERNAL


def from_message(message: str, step: str) -> RequestError:
    """The error of another model as this request's own: its code and line kept, an unknown one named after `step`."""
    line = strip_prefixes(message)
    if match := _CODE.match(line):
        return RequestError(match.group(1), line[match.end() :])
    if code_of(message) == UNAVAILABLE:
        return RequestError(UNAVAILABLE, f"{step}: not available at the moment")
    return RequestError(INTERNAL, f"{step}: failed")


def relayed(message: str, step: str) -> RequestError:
    """`from_message` of another model's failed response; without a code it is Triton's, which counts none."""
    error = from_message(message, step)
    error.relayed = _CODE.match(strip_prefixes(message)) is not None
    return error


def as_request_error(error: Exception, step: str) -> RequestError:
    """The error that a client may read; what was not foreseen goes to the log."""
    if isinstance(error, RequestError):
        return error
    logging.getLogger(__name__).error("%s: %s: %s", step, type(error).__name__, error)
    return broken(step, error)
