"""The engine: a thread that schedules, runs and postprocesses, one step after the other, until it is closed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from ..errors import UNAVAILABLE, RequestError, as_request_error, cancelled, queue_full, timed_out
from .cache import BLOCK, Pages
from .guide import Guide, Looks
from .limits import Limits, Threads
from .memory import describe, fitted
from .metrics import Meter
from .model import Llama
from .prompt import Prompter, speak
from .reception import Reception
from .runner import load_model
from .sampling import Sampler
from .scheduler import Decode, Prefill, Scheduler
from .sequence import Event, OnEvent, Request, Sequence

log = logging.getLogger(__name__)
State = Callable[[tuple[int, int]], str]  # of a ticket: "live", "cancelled" or "expired"
STEP = "lisa_engine"


class Engine:
    """Answers requests with LISA. `state` is asked before every step."""

    def __init__(
        self, model: Llama, tokenizer: Tokenizer, state: State = Reception.live, limits: Limits | None = None, meter: Meter | None = None
    ) -> None:
        self.limits, self.state, self.config, self.meter = limits or Limits(), state, model.config, meter or Meter()
        self.prompter, self.sampler, self.runner = Prompter(self.config, tokenizer), Sampler(model), fitted(model, self.limits)
        self.guide, self.looks = Guide(self.prompter), Looks()
        self.reception = Reception(self.config, self.prompter, self.guide, self.limits)
        self.scheduler = Scheduler(Pages(self.runner.pages), self.limits.running, self.limits.chunk)
        self.threads_of_a_step = Threads(self.limits.threads)
        self.live: set[Sequence] = set()
        self.arrived: list[Sequence] = []
        self.wake = threading.Condition()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=t, name=f"lisa-{t.__name__}", daemon=True) for t in (self._loop, self._watch)]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def load(
        folder: Path, state: State = Reception.live, limits: Limits | None = None, meter: Meter | None = None, on: str = "cpu"
    ) -> Engine:
        """The engine of an artefact folder: `config.json`, `model.safetensors`, `tokenizer.json`."""
        model = load_model(folder, torch.device(on))
        limits = limits or Limits.of(model.cos.device)
        return Engine(model, Tokenizer.from_file(str(folder / "tokenizer.json")), state, limits, meter)

    def describe(self) -> str:
        """One line for the log."""
        return f"{STEP}: {describe(self.runner, self.limits.running)}"

    def submit(self, request: Request, on_event: OnEvent) -> None:
        """Take a request; `on_event` is called from the engine's threads, and a last time with a final event, always."""
        try:
            sequence = self.reception.sequence(request, on_event)
            if self._known(sequence):
                return
            with self.wake:
                if self.stopped.is_set():
                    raise RequestError(UNAVAILABLE, f"{STEP}: the server is stopping")
                if len(self.live) >= self.limits.waiting:
                    raise queue_full(self.limits.waiting)
                self.live.add(sequence)
                self.arrived.append(sequence)
                self.wake.notify()
        except Exception as error:
            self.refuse(error, on_event)

    def refuse(self, error: Exception, on_event: OnEvent) -> None:
        """Answer what cannot become a request."""
        on_event(self._failure(None, as_request_error(error, STEP)))

    def close(self) -> None:
        """End the threads; requests still in flight fail as UNAVAILABLE."""
        with self.wake:
            self.stopped.set()
            self.wake.notify()
        for thread in self.threads:
            thread.join(timeout=10)
        for sequence in list(self.live):
            self._fail(sequence, RequestError(UNAVAILABLE, f"{STEP}: the server is stopping"))

    def _known(self, sequence: Sequence) -> bool:
        """Tell what needs no step: a look of before, or how a decided answer opens; True where that is all."""
        seen = sequence.request.look and self.looks.recall(sequence)
        whole = seen or (bool(sequence.answer) and sequence.counted >= sequence.limit)
        if whole or (sequence.answer and sequence.request.stream):
            sequence.said = speak(self.prompter.decode(sequence.answer), "")
            self._tell(sequence, self._event(sequence, sequence.said, final=whole))
        return whole

    # --- the thread ---------------------------------------------------------------------------------------------------
    def _loop(self) -> None:
        while not self.stopped.is_set():
            try:
                with self.wake:
                    while not (self.arrived or self.scheduler.waiting or self.scheduler.running or self.stopped.is_set()):
                        self.wake.wait()
                    arrived, self.arrived = self.arrived, []
                for sequence in arrived:
                    self.scheduler.add(sequence)
                    self.meter.add("prompt_tokens", sequence.prompt)
                    self.meter.add("generated_tokens", sequence.counted)
                self._drop_ended()
                self._step()
            except Exception as error:  # nothing may end this thread
                log.error("%s: %s: %s", STEP, type(error).__name__, error)
                for sequence in self.scheduler.all():
                    self._give_up(sequence, error)

    def _drop_ended(self) -> None:
        """Sequences that were cancelled, are past their deadline, or were ended by the watchdog leave before the step."""
        for sequence in self.scheduler.all():
            state = self.state(sequence.request.ticket)
            ended = state != "live" or time.monotonic_ns() > sequence.expires_ns
            if ended or sequence.closed:
                self.scheduler.remove(sequence)
            if ended:
                self._fail(sequence, cancelled() if state == "cancelled" else timed_out())

    def _step(self) -> None:
        step = self.scheduler.schedule()
        if step is None:
            return
        try:
            self.threads_of_a_step.set(isinstance(step, Prefill))
            hidden = self.runner.run(step)
        except Exception as error:
            for sequence in step.sequences:
                self._give_up(sequence, error)
            return
        ready = self.scheduler.computed(step)
        if ready:
            self._sample(step, ready, hidden)

    def _sample(self, step: Prefill | Decode, ready: list[Sequence], hidden: torch.Tensor) -> None:
        with torch.inference_mode():
            try:
                tokens = self.sampler.next(ready, hidden)
            except Exception as error:
                if len(ready) == 1:
                    return self._give_up(ready[0], error)
                for sequence, row in zip(ready, hidden, strict=True):
                    self._sample(step, [sequence], row.unsqueeze(0))
                return
            for sequence, token, row in zip(ready, tokens, hidden, strict=True):
                try:
                    self._take(sequence, token, row)
                except Exception as error:
                    self._give_up(sequence, error)

    def _take(self, sequence: Sequence, token: int, hidden: torch.Tensor) -> None:
        """A sequence's next token, and what its caller hears of it."""
        if sequence.request.look:
            return self._looked(sequence, hidden)
        ended, found = token in self.config.eos, token == self.config.seg
        seconds = 1e-9 * (time.monotonic_ns() - sequence.begin_ns)
        if len(sequence.ids) == sequence.prompt + sequence.silent + (sequence.request.verdict is not None):
            self.meter.observe("first_token_seconds", seconds)
        if not ended:
            sequence.ids.append(token)
            if words := self.guide.next_words(sequence):
                sequence.ids += words
                self.scheduler.back(sequence)
            self.meter.add("generated_tokens", 1 + len(words))
        if found and len(sequence.segs) < self.config.slots:
            sequence.segs.append(self._embedding(hidden))
            if len(sequence.segs) == 1:
                self.meter.observe("mask_seconds", seconds)
        ended = ended or sequence.counted >= sequence.limit
        if ended:
            self.scheduler.remove(sequence)
        if ended or sequence.request.stream:
            piece = speak(self.prompter.decode(sequence.answer), sequence.said)
            sequence.said += piece
            if piece or found or ended:
                self._tell(sequence, self._event(sequence, piece, final=ended))

    def _looked(self, sequence: Sequence, hidden: torch.Tensor) -> None:
        """The end of a look: `[SEG]`'s vector and probability, whatever the model would say."""
        sequence.segs.append(self._embedding(hidden))
        self.meter.observe("mask_seconds", 1e-9 * (time.monotonic_ns() - sequence.begin_ns))
        self.scheduler.remove(sequence)
        self.looks.keep(sequence)
        self._tell(sequence, self._event(sequence, "", final=True))

    def _embedding(self, hidden: torch.Tensor) -> np.ndarray:
        vector = self.runner.model.seg(hidden).cpu().numpy()
        if not np.isfinite(vector).all():
            raise ArithmeticError("[SEG] vector is not finite")
        return vector

    def _give_up(self, sequence: Sequence, error: Exception) -> None:
        self.scheduler.remove(sequence)
        self._fail(sequence, as_request_error(error, STEP))

    # --- events -------------------------------------------------------------------------------------------------------
    def _event(self, sequence: Sequence | None, text: str, status: str = "", final: bool = False) -> Event:
        segs = np.zeros((self.config.slots, self.config.seg_width), np.float32)
        for row, vector in enumerate(sequence.segs if sequence else ()):
            segs[row] = vector
        count, tokens = (len(sequence.segs), sequence.counted) if sequence else (0, 0)
        return Event(text, segs, count, sequence.probability if sequence else -1.0, tokens, status, final)

    def _failure(self, sequence: Sequence | None, error: RequestError) -> Event:
        return self._event(sequence, "", status=str(error), final=True)

    def _fail(self, sequence: Sequence, error: RequestError) -> None:
        self._tell(sequence, self._failure(sequence, error))

    def _tell(self, sequence: Sequence, event: Event) -> None:
        """Hand an event over, never after a final one."""
        with sequence.lock:  # held while telling: the watchdog's final event must not overtake
            if sequence.closed:
                return
            try:
                sequence.on_event(event)
                sequence.closed = event.final
            except Exception as error:  # the caller's trouble; for whom nobody listens nothing is computed
                log.warning("%s: a listener failed: %s", STEP, type(error).__name__)
                sequence.closed = True
        if sequence.closed:
            with self.wake:
                self.live.discard(sequence)

    def _watch(self) -> None:
        """Nobody waits for ever, not even for a step that does not come back; publishes the numbers, which may take a while."""
        while not self.stopped.wait(0.5):
            with self.wake:
                late = [sequence for sequence in self.live if time.monotonic_ns() > sequence.expires_ns + 10**9]
            for sequence in late:
                self._fail(sequence, timed_out())
            self.publish()

    def publish(self) -> None:
        """Tell the meter how things stand, and the meter whoever listens."""
        pages, scheduler = self.scheduler.pages, self.scheduler
        self.meter.set(
            running=len(scheduler.running), waiting=len(scheduler.waiting), preemptions=scheduler.preemptions,
            cache_pages=pages.count, cache_pages_used=pages.count - len(pages.free), prefix_hit_tokens=pages.hits * BLOCK,
        )  # fmt: skip
        self.meter.publish()
