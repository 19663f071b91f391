"""What the thin `model.py` files share: reading inputs, answering, failing, calling another model.

Nothing ever leaves `execute()` as an exception: Triton would fail the whole batch and show the trace to clients.
`triton_python_backend_utils` exists only inside a stub (and there `TritonError` only after the import of `model.py`),
so it is imported inside functions.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypedDict, Unpack

import numpy as np

from . import failures, ledger, spans
from .errors import CANCELLED, INTERNAL, INVALID_ARGUMENT, NOT_FOUND, UNAVAILABLE, RequestError, broken, invalid, relayed
from .parameters import Options, Sampling

Arrays = Mapping[str, np.ndarray]
Parameters = Mapping[str, bool | int | str]  # all that a request by BLS can carry
NICE = 5  # a third of the share that others get
_ENDED: deque[Any] = deque(maxlen=256)  # see `responses`


class Named(TypedDict, total=False):
    """Whose work it is. `trace`: the caller's `traceparent`, empty where it is not traced."""

    request_id: str
    trace: str


class Handed(Named, total=False):
    """What a BLS request loses of its caller's unless it is copied."""

    timeout_us: int
    parameters: Parameters


@dataclass(frozen=True)
class Job:
    """What a thread needs of a request after `execute()` returned."""

    start_ns: int
    wanted: frozenset[str]
    request_id: str
    trace: str
    timeout_us: int
    sampling: Sampling
    options: Options

    @staticmethod
    def of(request: Any) -> Job:
        """RequestError where its parameters are not what they may be."""
        wanted = frozenset(request.requested_output_names())
        parameters = request.parameters()
        sampling, options = Sampling.read(parameters), Options.read(parameters)
        names = request.request_id(), spans.parent_of(request)
        return Job(time.monotonic_ns(), wanted, *names, request.timeout(), sampling, options)

    @property
    def named(self) -> Named:
        return {"request_id": self.request_id, "trace": self.trace}

    @property
    def handed(self) -> Handed:
        """All of it, for a model that works for this request."""
        return {**self.named, "timeout_us": self.timeout_us, "parameters": self.parameters}

    @property
    def parameters(self) -> dict[str, str]:
        """What the caller asked beside the inputs; nothing where nothing was asked."""
        return self.sampling.parameters | self.options.parameters


def backend() -> ModuleType:
    import triton_python_backend_utils as pb_utils

    return pb_utils


def give_way() -> None:
    """For a step that computes for long on a CPU, before it makes its threads: where cores are few, who admits, refuses and answers goes
    first."""
    os.nice(NICE)


# --- inputs -----------------------------------------------------------------------------------------------------------
def array(request: Any, name: str) -> np.ndarray | None:
    """An input as an array (a view on the request's memory), or None where it is not given."""
    tensor = backend().get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def arrays(request: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the named inputs that are given, copied: they outlive `execute()`."""
    found = ((name, array(request, name)) for name in names)
    return {name: value.copy() for name, value in found if value is not None}


def as_bytes(value: np.ndarray | None) -> bytes | None:
    """The one element of a BYTES tensor."""
    if value is None:
        return None
    item = value.reshape(-1)[0]
    return item if isinstance(item, bytes) else str(item).encode()


def as_text(value: np.ndarray | None, name: str) -> str | None:
    """The one element of a BYTES tensor as text; RequestError where it is not UTF-8."""
    content = as_bytes(value)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        raise invalid(name, "expected UTF-8 text") from None


def string(text: str | bytes) -> np.ndarray:
    """A BYTES tensor of one element."""
    return np.array([text.encode() if isinstance(text, str) else text], dtype=np.object_)


def clock(start_ns: int) -> np.ndarray:
    """int64 [1, 2]: a step's start and its end, now."""
    return np.array([[start_ns, time.monotonic_ns()]], dtype=np.int64)


# --- answers ----------------------------------------------------------------------------------------------------------
def response(outputs: Arrays, wanted: Iterable[str] | None = None) -> Any:
    """An InferenceResponse of the outputs that are wanted."""
    pb_utils = backend()
    chosen = outputs.keys() if wanted is None else [name for name in outputs if name in set(wanted)]
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, np.ascontiguousarray(outputs[name])) for name in chosen])


def failure(error: BaseException, step: str, request_id: str) -> Any:
    """An InferenceResponse that fails: with a RequestError's code and line, anything else as INTERNAL with the step's name. Counted."""
    pb_utils = backend()
    told = error if isinstance(error, RequestError) else broken(step, error)
    if not told.relayed and told.code != CANCELLED:  # who left has not been failed
        failures.count(pb_utils, step, told.code)
    if told.code == INTERNAL:  # nobody's fault but ours
        pb_utils.Logger.log_error(f"{step}: request {request_id!r}: {type(error).__name__}: {error}")
    kinds = pb_utils.TritonError
    code = {INVALID_ARGUMENT: kinds.INVALID_ARG, NOT_FOUND: kinds.NOT_FOUND, UNAVAILABLE: kinds.UNAVAILABLE, CANCELLED: kinds.CANCELLED}
    return pb_utils.InferenceResponse(error=kinds(str(told), code.get(told.code, kinds.INTERNAL)))


def answer_each(requests: list[Any], answer: Callable[[Any], Arrays], step: str, ticket: str | None = None) -> list[Any]:
    """One response for each request, whatever happens: one request's error never changes another's answer.

    Args:
        answer: request -> output arrays by name (those not requested are dropped).
        ticket: the input whose row of the ledger is given back where a request fails.
    """
    failures.declare(backend(), step)
    return [_answer(request, answer, step, ticket) for request in requests]


def _answer(request: Any, answer: Callable[[Any], Arrays], step: str, ticket: str | None) -> Any:
    try:
        return response(answer(request), request.requested_output_names())
    except Exception as error:
        if ticket is not None:
            ledger.release(ledger.as_ticket(array(request, ticket)))
        return failure(error, step, request.request_id())


# --- calling another model --------------------------------------------------------------------------------------------
def inference_request(model: str, inputs: Arrays, outputs: Iterable[str], **handed: Unpack[Handed]) -> Any:
    """A BLS request. Answers come in host memory, whatever runs the model."""
    pb_utils = backend()
    return pb_utils.InferenceRequest(
        model_name=model,
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in inputs.items()],
        requested_output_names=list(outputs),
        request_id=handed.get("request_id", ""),
        timeout=handed.get("timeout_us", 0),
        parameters=dict(handed.get("parameters", {})),
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )


def outputs_of(answer: Any, model: str) -> dict[str, np.ndarray]:
    """The outputs of a BLS response, copied; its error as this request's own, with the code it lost."""
    if answer.has_error():
        raise relayed(answer.error().message(), model)
    return {tensor.name(): tensor.as_numpy().copy() for tensor in answer.output_tensors()}


def call(model: str, inputs: Arrays, outputs: Iterable[str], **handed: Unpack[Handed]) -> dict[str, np.ndarray]:
    """Run another model of this server and wait. RequestError where it fails."""
    with spans.span(model, handed.get("trace", ""), handed.get("request_id", "")) as traced:
        found = outputs_of(inference_request(model, inputs, outputs, **handed).exec(), model)
        if traced:
            traced.inner(found)
        return found


def responses(request: Any) -> Iterator[Any]:
    """Run a decoupled model: its responses, to be read to their end.

    The last few hundred iterators stay alive. Measured on 24.10: without this the process dies of a damaged heap after 40 to
    100 streams, 8 at a time; with it 896 went through. Not proven why; a new iterator at a dead one's address would explain it.
    """
    found = request.exec(decoupled=True)
    _ENDED.append(found)
    return found


def finish(*pools: ThreadPoolExecutor) -> None:
    """For `finalize()` of every step: what is under way is answered, and nothing of Triton's outlives the stub's tie to it."""
    for pool in pools:
        pool.shutdown()
    _ENDED.clear()
    failures.forget()


# --- answering from a thread pool -------------------------------------------------------------------------------------
def answer_later(
    pool: ThreadPoolExecutor, requests: list[Any], names: Iterable[str], answer: Callable[[dict[str, np.ndarray], Job], Arrays], step: str
) -> list[None]:
    """`execute()` of a step that must not block: copies the inputs, answers each request once from the pool.

    `answer` gets the given inputs of `names` and the Job; a `ticket` among them is given back where it fails.
    """
    failures.declare(backend(), step)
    names = tuple(names)
    for request in requests:
        sender = request.get_response_sender()
        try:
            pool.submit(_answer_and_send, sender, arrays(request, names), Job.of(request), answer, step)
        except Exception as error:
            send_last(sender, failure(error, step, request.request_id()))
    return [None] * len(requests)


def _answer_and_send(sender: Any, inputs: dict[str, np.ndarray], job: Job, answer: Callable[..., Arrays], step: str) -> None:
    try:
        last = response(answer(inputs, job), job.wanted)
    except Exception as error:
        ledger.release(ledger.as_ticket(inputs.get("ticket")))
        last = failure(error, step, job.request_id)
    send_last(sender, last)


def send_last(sender: Any, last: Any) -> None:
    """The one response of a unary request, with its final flag."""
    sender.send(last, flags=backend().TRITONSERVER_RESPONSE_COMPLETE_FINAL)
