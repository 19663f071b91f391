"""One request on its way through the engine: plain data, no behaviour of the scheduler or the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ..parameters import Sampling

NO_TICKET = (-1, 0)


@dataclass(frozen=True)
class Request:
    """What LISA is asked. `features` fp32 [T, C] of one picture; `history` (role, text), oldest first; `ticket` of the ledger."""

    features: np.ndarray
    question: str
    history: tuple[tuple[str, str], ...] = ()
    max_tokens: int = 96
    ticket: tuple[int, int] = NO_TICKET
    sampling: Sampling = Sampling()
    stream: bool = False
    look: bool = False  # with a verdict: only the first [SEG] vector and its probability, no text
    verdict: bool | None = None  # decided already: the answer opens accordingly
    places: tuple[str, ...] = ()  # of the masks: what follows the answer's first "at the"


@dataclass(frozen=True)
class Event:
    """News of a request. `text` is new text (everything, where the request does not stream).

    `seg_embeddings` fp32 [K, E], unused slots zero; `seg_probability` -1 where the checkpoint has no verdict; `status`
    empty or one line `CODE: message`; exactly one event of a request is `final`, its last.
    """

    text: str
    seg_embeddings: np.ndarray
    seg_count: int
    seg_probability: float
    tokens: int
    status: str = ""
    final: bool = False


OnEvent = Callable[[Event], None]


@dataclass(eq=False)
class Sequence:
    """Tokens of prompt and answer; positions below `computed` have their keys and values in the blocks of `table`.

    `ids` holds -1 where a picture vector goes. A preempted sequence just loses its blocks: everything is computed again
    from `ids`, the answer so far included.
    """

    request: Request
    on_event: OnEvent
    ids: list[int]
    prompt: int
    limit: int  # answer tokens at most
    digest: bytes  # of the picture, part of the identity of shared blocks
    expires_ns: int  # nobody waits longer for this answer
    begin_ns: int = field(default_factory=time.monotonic_ns)
    pictures: Tensor | None = None  # [T, H], projected at the first prefill
    table: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    computed: int = 0
    segs: list[np.ndarray] = field(default_factory=list)
    probability: float = -1.0
    said: str = ""
    silent: int = 0  # tokens of the answer that its limit does not count
    guided: bool = False  # the places have been said
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def answer(self) -> list[int]:
        return self.ids[self.prompt :]

    @property
    def counted(self) -> int:
        """Tokens of the answer so far, as its limit counts them."""
        return len(self.answer) - self.silent

    @property
    def fresh(self) -> int:
        """Positions still to compute before the next token is known."""
        return len(self.ids) - self.computed
