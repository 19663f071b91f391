"""The calls of the contract, made once for both clients: what is sent, how the answer is read, and whether it may be sent twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from . import trace, wire
from .errors import InvalidInput, NotInspected, ServerFault
from .pictures import Picture
from .policy import Policy
from .report import Complete, Event, Report, Segment, Verdict
from .shared import Region

T = TypeVar("T")
ENROLL_S = 600.0  # enrolling embeds every picture


class Sending(TypedDict, total=False):
    """How one request is sent. timeout: seconds, instead of the client's own. request_id: your name for it; a new one if none is
    given. traceparent: the W3C trace it belongs to."""

    timeout: float | None
    request_id: str | None
    traceparent: str | None


class Options(Sending, total=False):
    """What an inspection may be told beside the picture; None is the same as leaving it out.

    prompt: the question, at most 2,000 characters. product: name of an enrolled product. box: x_min, y_min, x_max, y_max of
    the part in pixels; only that is inspected. reference: 1 to 16 pictures of normal parts. expert: a hint of your own.
    history: earlier turns, {"role": "user" | "assistant", "content": text}, oldest first, at most 32. max_tokens: 1 to 512.
    """

    prompt: str | None
    product: str | None
    box: Sequence[float] | None
    reference: Sequence[Picture] | None
    expert: str | None
    history: Sequence[Mapping[str, str]] | None
    max_tokens: int | None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request before it is sent. `safe`: it changes nothing on the server, so it may be sent twice."""

    model: str
    tensors: wire.Tensors
    read: Callable[[wire.Response], T]
    outputs: tuple[str, ...] = ()
    safe: bool = True
    timeout: float | None = None
    request_id: str = ""
    traceparent: str | None = None

    def named(self, policy: Policy, timeout: float) -> Call[T]:
        """With everything that was left open: deadline, id and trace."""
        seconds = timeout if self.timeout is None else self.timeout
        if not 0 < seconds < float("inf"):
            raise InvalidInput(f"timeout: expected seconds, got {seconds}", "INVALID_ARGUMENT")
        header = trace.traceparent(self.traceparent, policy.trace)
        return replace(self, timeout=seconds, traceparent=header, request_id=trace.request_id(self.request_id or None))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("traceparent", self.traceparent),) if self.traceparent else ()

    def message(self, seconds: float, region: Region | None = None) -> wire.Request:
        return wire.request(self.model, self.tensors, seconds, self.outputs, self.request_id, region)

    def answer(self, response: wire.Response) -> T:
        """What the response says. ServerFault where it is the answer to somebody else."""
        self.check(response)
        value = self.read(response)
        return replace(value, request_id=self.request_id) if isinstance(value, Report | Segment) else value

    def check(self, response: wire.Response) -> None:
        if response.id and response.id != self.request_id:
            raise ServerFault(f"the server answered request {response.id!r}, not {self.request_id!r}", "INTERNAL")

    def blame(self, error: NotInspected) -> NotInspected:
        """The error with the request's names on it."""
        error.request_id, error.traceparent = self.request_id, self.traceparent or ""
        return error


def _sent(options: Mapping[str, Any]) -> dict[str, Any]:
    names = {"timeout": options.get("timeout"), "request_id": options.get("request_id"), "traceparent": options.get("traceparent")}
    if names["request_id"] is not None:
        names["request_id"] = trace.request_id(names["request_id"])
    return {key: value for key, value in names.items() if value is not None}


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in Sending.__annotations__}


def inspect(image: Picture, **options: Unpack[Options]) -> Call[Report]:
    return Call("inspect", wire.inspection(image, **_asked(options)), wire.read_report, wire.ANSWER, **_sent(options))


def stream(image: Picture, **options: Unpack[Options]) -> Call[Report]:
    outputs = (*wire.ANSWER, "TEXT")
    return Call("inspect_stream", wire.inspection(image, **_asked(options)), wire.read_report, outputs, **_sent(options))


def segment(
    image: Picture, box: Sequence[float] | None, points: Sequence[Sequence[float]] | None, **sending: Unpack[Sending]
) -> Call[Segment]:
    return Call("segment", wire.segmentation(image, box, points), wire.read_segment, **_sent(sending))


def enroll(
    name: str,
    images: Sequence[Picture],
    description: str | None,
    prompt: str | None,
    box: Sequence[float] | None,
    patience: float,
    **sending: Unpack[Sending],
) -> Call[dict[str, Any]]:
    """`patience`: the client's own deadline; enrolling is given longer."""
    tensors = wire.product_action("enroll", name, images, description, prompt, box)
    return Call("products", tensors, wire.read_json, safe=False, **{"timeout": max(patience, ENROLL_S), **_sent(sending)})


def product(action: str, name: str | None = None, **sending: Unpack[Sending]) -> Call[Any]:
    """`list`, `describe` or `remove`."""
    return Call("products", wire.product_action(action, name), wire.read_json, safe=action != "remove", **_sent(sending))


class Events:
    """The events of one stream, each with the request's id on its report."""

    def __init__(self, call: Call[Report]) -> None:
        self._call, self._reader = call, wire.StreamReader()
        self.began = False

    def read(self, response: wire.StreamResponse) -> Event | None:
        self.began = True
        self._call.check(response.infer_response)
        event = self._reader.read(response)
        if isinstance(event, Verdict | Complete):
            return replace(event, report=replace(event.report, request_id=self._call.request_id))
        return event

    def finish(self) -> None:
        self._reader.finish()
