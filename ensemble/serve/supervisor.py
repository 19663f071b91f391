"""Keeps one tritonserver serving: notices a dead step, a dead server and a server that hangs, and starts it anew.

Always the whole server: with the tiny profile that takes seconds, where unloading one model can hang on requests that wait
for the dead step (facts of Triton 24.10: a dead stub is never restarted, and its own readiness stays true).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from sightline_ensemble.serve import canary, processes, streams
from sightline_ensemble.serve.canary import Counts, Outcome, Probe
from sightline_ensemble.serve.health import Status
from sightline_ensemble.serve.launcher import Server, Settings, Triton
from sightline_ensemble.serve.streams import Streams

WATCH_SECONDS = 0.25  # between two looks at the stubs
COUNT_SECONDS = 2.0  # between two looks at the request counts
FIRST_PROBE_SECONDS = 60.0  # the first inference warms everything up
PROBE_SECONDS = 10.0
RETRY_SECONDS = 1.0
BUSY_LIMIT_SECONDS = 180.0  # refused or late for so long while nobody is answered: it hangs
CROWD = 2  # so many requests ended during a probe (its own may be one): the server is slow, not stuck
LOOP_SECONDS = 5.0  # a server that served for less than this counts as part of a crash loop
LONGEST_PAUSE = 8.0  # with it too a step killed in a crash loop is served again within 30 s
HOPELESS_RESTARTS = 5  # in a row that never became ready: then `/live` turns false too


@dataclass
class Pulse:
    """When a canary is due, and what its outcome means. Times: seconds of a monotonic clock."""

    period: float
    good_at: float  # when an inference last passed: a canary's or a client's
    seen: Counts = field(default_factory=Counts)
    misses: int = 0
    next_at: float = 0.0
    ended: int = 0  # requests that had ended when the running canary began

    def begin(self) -> None:
        """A canary sets out."""
        self.ended = self.seen.good + self.seen.failed

    def count(self, now: float, counts: Counts) -> None:
        """Clients' answered requests are as good as a canary; failures without a single success call for one."""
        if counts.good > self.seen.good:
            self.good_at = now
            if not self.misses:  # after a bad canary a good one is still wanted soon
                self.next_at = now + self.period
            self.misses = 0
        elif counts.failed > self.seen.failed:
            self.next_at = min(self.next_at, now)
        self.seen = counts

    def outcome(self, now: float, probe: Probe) -> str:
        """Empty to go on; otherwise why the server must be restarted."""
        crowd = self.seen.good + self.seen.failed - self.ended >= CROWD
        if probe.outcome is Outcome.BUSY or (probe.outcome is Outcome.LATE and crowd):
            self.next_at = now + COUNT_SECONDS
            return "requests are refused and none is answered" if now - self.good_at > BUSY_LIMIT_SECONDS else ""
        if probe.outcome is Outcome.GOOD:
            self.good_at, self.misses, self.next_at = now, 0, now + self.period
            return ""
        self.misses += 1
        self.next_at = now + RETRY_SECONDS
        return probe.reason if self.misses > 1 else ""


def pauses() -> Iterator[float]:
    """Seconds to wait before each restart of a crash loop: the first one at once."""
    pause = 0.0
    while True:
        yield pause
        pause = min(max(2 * pause, 1.0), LONGEST_PAUSE)


class Supervisor:
    """`run` serves until `stop`; `status` may be read from any thread."""

    def __init__(self, settings: Settings, triton: Triton, canary_seconds: float = 30.0, start_seconds: float = 300.0) -> None:
        self.status = Status(ready=False, live=True, reason="starting", profile=settings.profile)
        self._settings, self._triton = settings, triton
        self._canary_seconds, self._start_seconds = canary_seconds, start_seconds
        self._stopping = threading.Event()
        self._runs = processes.run_names()
        self._ready_at = 0.0  # when this life of the server became ready; 0: not yet

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> int:
        """Serve; 0 after `stop`, 1 where the server could not be started at all. To be called in the main thread."""
        waits, failures = pauses(), 0
        while not self._stopping.is_set():
            fault = self._serve_once()
            if self._stopping.is_set():
                break
            if not self._ready_at and not self.status.restarts:
                self._say("cannot start", f"cannot start: {fault}", "error", reason=fault)
                return 1
            if self._ready_at and time.monotonic() - self._ready_at > LOOP_SECONDS:
                waits = pauses()
            failures = 0 if self._ready_at else failures + 1
            self._set(ready=False, reason=fault, live=failures < HOPELESS_RESTARTS, restarts=self.status.restarts + 1)
            self._say("restarting", f"restarting: {fault}", "error", reason=fault)
            self._stopping.wait(next(waits))
        self._set(ready=False, reason="stopped")
        self._say("stopped", "stopped")
        return 0

    def _serve_once(self) -> str:
        """One life of a server. Returns why it ended; it and all it left are gone then."""
        self._ready_at, begin = 0.0, time.monotonic()
        server = Server(self._settings, self._triton, next(self._runs))
        probes = ThreadPoolExecutor(max_workers=2, thread_name_prefix="canary")
        try:
            fault = self._wait_loaded(server, begin + self._start_seconds) or self._watch(server, probes, begin)
        finally:
            if self._stopping.is_set():
                self._set(ready=False, reason="stopping")
                if not server.stop():
                    self._say("killed", "it did not stop in time and was killed", "warning")
            else:
                server.kill()
            probes.shutdown(wait=False, cancel_futures=True)
        return fault

    def _wait_loaded(self, server: Server, deadline: float) -> str:
        while not canary.alive(server.url):
            if (code := server.ended()) is not None:
                last = next((line for line in reversed(server.last_lines) if "error" in line.lower()), "")
                return f"tritonserver ended with status {code} while loading {last}".rstrip()
            if time.monotonic() > deadline:
                return f"the models were not loaded within {self._start_seconds:g} s"
            if self._stopping.wait(0.1):
                break
        return ""

    def _watch(self, server: Server, probes: ThreadPoolExecutor, begin: float) -> str:
        """Look after a loaded server until something is wrong with it, or `stop`."""
        known = processes.stubs(server.pid)
        pulse = Pulse(self._canary_seconds, time.monotonic())
        open_streams = Streams(streams.address(server.settings), self._canary_seconds, time.monotonic() + self._canary_seconds)
        running: Future[Probe] | None = None
        trying: Future[bool] | None = None
        count_at = 0.0
        while not self._stopping.wait(WATCH_SECONDS):
            now = time.monotonic()
            if fault := self._dead(server, known):
                return self._unready(fault)
            if self._ready_at and now >= count_at:
                count_at = now + COUNT_SECONDS
                if (counts := canary.counts(server.url)) is not None:
                    pulse.count(now, counts)
            if running is not None and running.done():
                probe, running = running.result(), None
                if fault := pulse.outcome(now, probe):
                    return self._unready(fault)
                if pulse.misses:
                    self._unready(probe.reason)
                elif probe.outcome is Outcome.GOOD and not self.status.ready:
                    self._ready_at = self._ready_at or now
                    self._set(ready=True, live=True, reason="")
                    took, steps = round(now - begin, 1), len(known)
                    self._say("ready", f"ready in {took} s, {steps} steps in processes of their own", seconds=took, steps=steps)
            if trying is not None and trying.done():
                if fault := open_streams.outcome(now, trying.result()):
                    return self._unready(fault)
                trying = None
            if trying is None and self._ready_at and open_streams.due(now):
                trying = probes.submit(streams.served, open_streams.address, PROBE_SECONDS)
            if running is None and now >= pulse.next_at:
                pulse.begin()
                running = probes.submit(canary.probe, server.url, PROBE_SECONDS if self._ready_at else FIRST_PROBE_SECONDS)
        return ""

    def _dead(self, server: Server, known: dict[int, str]) -> str:
        if (code := server.ended()) is not None:
            return f"tritonserver ended with status {code}"
        lost = processes.dead(known, server.pid)
        return f"{', '.join(sorted(lost))}: the step's process died" if lost else ""

    def _unready(self, reason: str) -> str:
        self._set(ready=False, reason=reason)
        return reason

    def _set(self, **changes: bool | str | int) -> None:
        self.status = replace(self.status, **changes)

    def _say(self, event: str, message: str, level: str = "info", **fields: str | int | float) -> None:
        self._settings.log.say(event, message, level, **fields, profile=self.status.profile, restarts=self.status.restarts)
