"""One streamed inspection: prepare, LISA's look, the verdict with its masks, the sentence piece by piece, the report.

Triton can neither load nor order a streaming ensemble of this shape, so this drives the same steps by BLS.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import ledger, spans, steps
from .contract import ENGINES_WITH_CLOCK, MODELS
from .errors import RequestError, cancelled, from_message
from .steps import Job, as_bytes, string
from .verdict import unexplained
from .wiring import ENSEMBLES, PREPARED

POLL_S = 0.02
RETURN_S = 0.02  # from the end of `execute` in Python to its end in the server
_ENGINE_INPUTS = ("image_features", "dialogue", "ticket")
_ENGINE_OUTPUTS = ("answer", "seg_embeddings", "seg_count", "seg_probability", "tokens", "status", "lisa_clock")
_JUDGE_INPUTS = tuple(tensor.name for tensor in ENSEMBLES["judge"].inputs)
_REPORT_INPUTS = tuple(tensor.name for tensor in MODELS["report"].inputs)
_LOOK = {"look": np.array([1], np.int32)}

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Names:
    """What to ask `prepare` and `judge` for."""

    prepared: list[str]
    judged: list[str]

    @staticmethod
    def of(with_engine_clocks: bool) -> Names:
        """Engines have clocks only where they run as Python."""
        dropped = set() if with_engine_clocks else {f"{engine}_clock" for engine in ENGINES_WITH_CLOCK}
        found = ([t.name for t in tensors if t.name not in dropped] for tensors in (PREPARED, ENSEMBLES["judge"].outputs))
        return Names(*found)


@dataclass(eq=False)
class Outlet:
    """A response sender that nobody touches after the final flag: asking it then kills the whole server. Nor does it end before
    `execute` has returned: what ended the server then was a request that outlived its step, but nothing says that this is safe."""

    sender: Any
    wanted: frozenset[str]
    request_id: str
    returned: threading.Event  # by the `execute` that was given the request
    ticket: tuple[int, int] = ledger.NO_TICKET
    gone: bool = False  # the client cancelled
    _done: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, outputs: Mapping[str, np.ndarray], last: bool = False) -> None:
        self._send(steps.response(outputs, self.wanted), last)

    def fail(self, error: BaseException) -> None:
        self.end(steps.failure(error, "inspect_stream", self.request_id))

    def end(self, response: Any = None) -> None:
        """With a last response, or without a word."""
        self._send(response, last=True)

    def _send(self, response: Any, last: bool) -> None:
        if last and not self.returned.is_set():
            self.returned.wait()
            time.sleep(RETURN_S)
        with self._lock:
            if self._done:
                return
            self._done = last
            said = (response,) if response is not None else ()
            self.sender.send(*said, flags=steps.backend().TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)

    def look(self) -> None:
        """Notice a client that went away; its row in the ledger stops the language model at its next token."""
        with self._lock:
            if not self._done and not self.gone:
                self.gone = self.sender.is_cancelled()
        if self.gone and not self._done:
            ledger.cancel(self.ticket)


def left_by(request: Any) -> str:
    """The id of the stream that is to end (request parameter `cancel`); empty in every other request.

    gRPC's own cancellation races with the responses in tritonserver 24.10: a stream's state is freed twice, or its one thread for all
    streams waits for ever (server#7368, #8034). A client that leaves by a request of its own does not touch that.
    """
    return str(json.loads(request.parameters() or "{}").get("cancel", ""))


class Watcher:
    """Looks at every open outlet some fifty times a second."""

    def __init__(self) -> None:
        self._outlets: set[Outlet] = set()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def add(self, outlet: Outlet) -> None:
        with self._lock:
            self._outlets.add(outlet)

    def remove(self, outlet: Outlet) -> None:
        with self._lock:
            self._outlets.discard(outlet)

    def leave(self, request_id: str) -> None:
        """The client of that stream has left it, as if it had cancelled."""
        with self._lock:
            for outlet in self._outlets:
                outlet.gone = outlet.gone or outlet.request_id == request_id

    def __len__(self) -> int:
        return len(self._outlets)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            with self._lock:
                outlets = list(self._outlets)
            for outlet in outlets:
                outlet.look()


def inspect(inputs: Mapping[str, np.ndarray], outlet: Outlet, job: Job, names: Names) -> None:
    """Answer one request through its outlet; the last response has the final flag. Errors are raised, nothing is sent then.

    Args:
        names: of this configuration.
    """
    prepared = steps.call("prepare", inputs, names.prepared, **job.handed)
    outlet.ticket = ledger.as_ticket(prepared["ticket"])
    if outlet.gone:
        raise cancelled()
    course = Course(prepared, outlet, job, names, {"MAX_TOKENS": inputs["MAX_TOKENS"]} if "MAX_TOKENS" in inputs else {})
    answer, text = course.hear(_LOOK)
    if not course.judged:
        course.judge(answer, text)
    if unexplained(course.known["finding"], string(text)):
        looked = answer
        answer, text = course.hear({"finding": course.known["finding"]})
        answer = {**answer, "lisa_clock": looked["lisa_clock"], "explain_clock": answer["lisa_clock"]}
    course.end(answer, text)


@dataclass(eq=False)
class Course:
    """One streamed inspection under way. `known`: every tensor so far."""

    prepared: Arrays
    outlet: Outlet
    job: Job
    names: Names
    limit: Arrays  # MAX_TOKENS, where given
    known: dict[str, np.ndarray] = field(default_factory=dict)
    judged: int = 0  # how many [SEG] the last judgement knew of, plus one
    first_ns: int = 0  # when the first response left

    def hear(self, asked: Arrays) -> tuple[Arrays, bytes]:
        """The language model's last response and its whole text; pieces are passed on as they come, a verdict with its `[SEG]`."""
        text, answer = b"", None
        pieces = _pieces({name: self.prepared[name] for name in _ENGINE_INPUTS} | dict(self.limit) | dict(asked), self.job)
        try:
            for answer in pieces:
                piece = as_bytes(answer["answer"]) or b""
                text += piece
                if self.first_ns:
                    if piece and "TEXT" in self.outlet.wanted:
                        self.outlet.send({"TEXT": string(piece)})
                elif answer["seg_count"][0] >= max(self.judged, 1) and "finding" not in asked:
                    self.judge(answer, text)
        except Exception:
            ledger.cancel(self.outlet.ticket)  # stops the language model
            with suppress(RequestError):
                for _ in pieces:  # a stream of the engine must be read to its end
                    pass
            raise
        if answer is None:
            raise from_message("", "lisa_engine")
        return answer, text

    def judge(self, answer: Arrays, text: bytes) -> None:
        """Verdict and masks of the `[SEG]` so far; the first that finds an anomaly leaves at once."""
        known = {**self.prepared, **answer}
        self.judged = int(answer["seg_count"][0]) + 1
        inputs = {name: known[name] for name in _JUDGE_INPUTS}
        self.known |= steps.call("judge", inputs, self.names.judged, **self.job.named)
        if not self.first_ns and self.known["SCORE"][0] >= 0.5:
            first = self._report(answer, text)
            self.first_ns = time.monotonic_ns()
            self.outlet.send(first)

    def end(self, answer: Arrays, text: bytes) -> None:
        """The complete answer; a later `[SEG]` may have added defects."""
        if "seg_count" in answer and int(answer["seg_count"][0]) + 1 > self.judged:
            self.judge(answer, text)
        last = self._report(answer, text, {"release": self.prepared["ticket"]})
        if not self.first_ns:
            self.outlet.send(last)
        self.outlet.send(last, last=True)

    def _report(self, answer: Arrays, text: bytes, more: Arrays | None = None) -> dict[str, np.ndarray]:
        known = {**self.prepared, **answer, **self.known, "answer": string(text), **(more or {})}
        if self.first_ns:
            known["mask_ns"] = np.array([self.first_ns], np.int64)
        inputs = {name: known[name] for name in _REPORT_INPUTS if name in known}
        said = steps.call("report", inputs, ["REPORT", "TEXT"], **self.job.named)
        return said | {"SCORE": self.known["SCORE"], "MASK": self.known["MASK"], "HEATMAP": self.prepared["HEATMAP"]}


def _pieces(inputs: Arrays, job: Job) -> Iterator[dict[str, np.ndarray]]:
    """The language model's responses. Its failures come as data (`status`) and are raised after its stream has ended."""
    inputs = {**inputs, "stream": np.array([1], np.int32)}
    request = steps.inference_request("lisa_engine", inputs, _ENGINE_OUTPUTS, request_id=job.request_id, parameters=job.parameters)
    failed = ""
    with spans.span("lisa_engine", **job.named):
        for response in steps.responses(request):
            found = steps.outputs_of(response, "lisa_engine")
            if not found or failed:
                continue
            failed = (as_bytes(found["status"]) or b"").decode()
            if not failed:
                yield found
        if failed:
            raise from_message(failed, "lisa_engine")
