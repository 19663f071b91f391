"""One streamed inspection: prepare, the language model, and a report at the first `[SEG]` and at the end.

Triton can neither load nor order a streaming ensemble of this shape, so this drives the same steps by BLS.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import ledger, steps
from .contract import ENGINES_WITH_CLOCK
from .errors import RequestError, cancelled, from_message
from .steps import Job, as_bytes, string
from .wiring import ENSEMBLES, PREPARED

POLL_S = 0.02
_ENGINE_INPUTS = ("image_features", "question", "ticket")
_ENGINE_OUTPUTS = ("answer", "seg_embeddings", "seg_count", "seg_probability", "tokens", "status", "lisa_clock")
_FINISH_INPUTS = tuple(tensor.name for tensor in ENSEMBLES["finish"].inputs)


@dataclass(eq=False)
class Outlet:
    """A response sender that nobody touches after the final flag: asking it then kills the whole server."""

    sender: Any
    wanted: frozenset[str]
    ticket: tuple[int, int] = ledger.NO_TICKET
    gone: bool = False  # the client cancelled
    _done: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, outputs: Mapping[str, np.ndarray], last: bool = False) -> None:
        self._send(steps.response(outputs, self.wanted), last)

    def fail(self, error: BaseException) -> None:
        self._send(steps.failure(error, "inspect_stream"), last=True)

    def _send(self, response: Any, last: bool) -> None:
        with self._lock:
            if self._done:
                return
            self._done = last
            self.sender.send(response, flags=steps.backend().TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)

    def look(self) -> None:
        """Notice a client that went away; its row in the ledger stops the language model at its next token."""
        with self._lock:
            if not self._done and not self.gone:
                self.gone = self.sender.is_cancelled()
        if self.gone and not self._done:
            ledger.cancel(self.ticket)


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


def inspect(inputs: Mapping[str, np.ndarray], outlet: Outlet, job: Job, names: list[str]) -> None:
    """Answer one request through its outlet; the last response has the final flag. Errors are raised, nothing is sent then.

    Args:
        names: `prepared_names` of this configuration.
    """
    prepared = steps.call("prepare", inputs, names, **job.handed)
    outlet.ticket = ledger.as_ticket(prepared["ticket"])
    if outlet.gone:
        raise cancelled()
    heatmap = {"HEATMAP": prepared["HEATMAP"]}
    text, first_ns, answer = b"", 0, None
    pieces = _pieces(
        {name: prepared[name] for name in _ENGINE_INPUTS} | {k: inputs[k] for k in ("HISTORY", "MAX_TOKENS") if k in inputs}, job
    )
    try:
        for answer in pieces:
            piece = as_bytes(answer["answer"]) or b""
            text += piece
            if first_ns:
                if piece and "TEXT" in outlet.wanted:
                    outlet.send({"TEXT": string(piece)})
            elif answer["seg_count"][0] and not 0 <= answer["seg_probability"][0] < 0.5:
                first = _finish(prepared, answer, text, job)
                if first["SCORE"][0] >= 0.5:
                    first_ns = time.monotonic_ns()
                    outlet.send(first | heatmap)
    except Exception:
        ledger.cancel(outlet.ticket)  # stops the language model
        with suppress(RequestError):
            for _ in pieces:  # a stream of the engine must be read to its end
                pass
        raise
    if answer is None:
        raise from_message("", "lisa_engine")
    last = _finish(prepared, answer, text, job, first_ns, release=True) | heatmap
    if not first_ns:
        outlet.send(last)
    outlet.send(last, last=True)


def prepared_names(with_engine_clocks: bool) -> list[str]:
    """What to ask `prepare` for: engines have clocks only where they run as Python."""
    dropped = set() if with_engine_clocks else {f"{engine}_clock" for engine in ENGINES_WITH_CLOCK}
    return [tensor.name for tensor in PREPARED if tensor.name not in dropped]


def _pieces(inputs: Mapping[str, np.ndarray], job: Job) -> Iterator[dict[str, np.ndarray]]:
    """The language model's responses. Its failures come as data (`status`) and are raised after its stream has ended."""
    inputs = {**inputs, "stream": np.array([1], np.int32)}
    request = steps.inference_request("lisa_engine", inputs, _ENGINE_OUTPUTS, request_id=job.request_id, parameters=job.sampling.parameters)
    failed = ""
    for response in steps.responses(request):
        found = steps.outputs_of(response, "lisa_engine")
        if not found or failed:
            continue
        failed = (as_bytes(found["status"]) or b"").decode()
        if not failed:
            yield found
    if failed:
        raise from_message(failed, "lisa_engine")


def _finish(
    prepared: Mapping[str, np.ndarray], answer: Mapping[str, np.ndarray], text: bytes, job: Job, first_ns: int = 0, release: bool = False
) -> dict[str, np.ndarray]:
    """REPORT, TEXT, SCORE and MASK of the answer so far."""
    known = {**prepared, **answer, "answer": string(text)}
    if first_ns:
        known["mask_ns"] = np.array([first_ns], np.int64)
    if release:
        known["release"] = prepared["ticket"]
    inputs = {name: known[name] for name in _FINISH_INPUTS if name in known}
    return steps.call("finish", inputs, ["REPORT", "TEXT", "SCORE", "MASK"], request_id=job.request_id)
