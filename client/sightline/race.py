"""Which replicas one request is sent to, and when: retries and hedging as decisions, driven by both clients."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from .errors import InvalidInput, NotInspected, UnknownProduct
from .policy import Budget, Policy, backoff
from .replicas import Replica, Replicas

FINAL = (InvalidInput, UnknownProduct)  # an answer about the request itself: every replica would say the same


class Race:
    """The attempts of one request.

    A retry follows only on UNAVAILABLE (`error.transient`: nothing was computed, or the server is gone), on a replica that has not
    been asked yet, within the policy's attempts, the budget and the deadline. A hedge follows on silence. `safe`: the request
    changes nothing on the server, so it may run twice; every other is sent once.
    """

    def __init__(
        self,
        replicas: Replicas,
        policy: Policy,
        budget: Budget,
        deadline: float,
        safe: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replicas, self._policy, self._budget, self._clock = replicas, policy, budget, clock
        self.deadline = deadline
        self._attempts = policy.attempts if safe else 1
        self._hedge_after = policy.hedge_after if safe else None
        self._among, self._tried = replicas.current(), list[Replica]()
        self._wake: float | None = None
        self._hedged = self._paid = False  # paid: the planned attempt is in the budget already
        budget.earn()

    def start(self) -> Replica:
        """The replica to ask now."""
        replica = self._replicas.pick(self._among, self._tried)
        self._tried.append(replica)
        self._wake, self._paid = None, False
        if self._hedge_after is not None and not self._hedged:
            self._hedged = True
            if self._may_go_on():
                self._plan(self._hedge_after)
        return replica

    def left(self) -> float:
        """Seconds until the deadline, never 0: that would be no deadline."""
        return max(1e-3, self.deadline - self._clock())

    def wait(self) -> float | None:
        """Seconds until another attempt is due; None where none is planned."""
        return None if self._wake is None else max(0.0, self._wake - self._clock())

    def due(self) -> bool:
        """Whether another attempt is to be started now."""
        if self._wake is None or self._clock() < self._wake:
            return False
        self._wake = None
        return self._paid or self._budget.spend()

    def lost(self, replica: Replica, error: NotInspected, others: bool) -> bool:
        """Whether the request goes on after `error`: another attempt is planned, or `others` are still on their way."""
        if isinstance(error, FINAL):
            return False
        if error.transient or error.status == "DEADLINE_EXCEEDED":  # silence too: a server that hangs or is switched off
            replica.failed(self._clock())
        if not error.transient:
            return others
        if self._may_go_on() and self._budget.spend():
            self._plan(backoff(len(self._tried)))
            self._paid = self._wake is not None
        return others or self._wake is not None

    def won(self, replica: Replica, running: Iterable[Replica]) -> None:
        """The answer came from `replica`, before those that are `running` still: who had a start and lost it may hang."""
        replica.answered()
        for other in running:
            if self._tried.index(other) < self._tried.index(replica):
                other.outrun(self._clock())

    def _may_go_on(self) -> bool:
        return not self._paid and len(self._tried) < self._attempts and len(self._tried) < len(self._among)

    def _plan(self, seconds: float) -> None:
        wake = self._clock() + seconds
        self._wake = wake if wake < self.deadline else None
