"""What the line has done since it was started."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Stats:
    """Counts of this run. Latencies in ms.

    `corrected`: parts reported as not inspected and inspected later; `corrected_anomaly`: those of them that are anomalies.
    `late`: takts that the line could not keep. `unseen`: parts without a picture.
    """

    taken: int = 0
    normal: int = 0
    anomaly: int = 0
    not_inspected: int = 0
    corrected: int = 0
    corrected_anomaly: int = 0
    unseen: int = 0
    late: int = 0
    spooled: int = 0
    latency_mean_ms: float = 0.0
    latency_max_ms: float = 0.0
    seconds: float = 0.0
    delivered: dict[str, int] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Sinks (and the source) that do not work at the moment, and what they said."""

    def values(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        text = f"{self.taken} parts: {self.normal} normal, {self.anomaly} anomalous, {self.not_inspected} not inspected"
        text += f" ({self.corrected} corrected, {self.corrected_anomaly} of them anomalous, {self.spooled} in the spool)"
        text += f"; {self.late} takts late; {self.latency_mean_ms:.0f} ms mean, {self.latency_max_ms:.0f} ms most"
        return text + "".join(f"; {name}: {fault}" for name, fault in self.faults.items())


class Counter:
    """Collects them; safe to share between threads."""

    def __init__(self) -> None:
        self._stats, self._lock = Stats(), threading.Lock()
        self._begin = time.monotonic()
        self._latencies, self._answers = 0.0, 0

    def add(self, **counts: int) -> None:
        with self._lock:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + count for name, count in counts.items()})

    def took(self, seconds: float) -> None:
        with self._lock:
            self._latencies, self._answers = self._latencies + seconds, self._answers + 1
            longest = max(self._stats.latency_max_ms, seconds * 1e3)
            self._stats = replace(self._stats, latency_mean_ms=self._latencies / self._answers * 1e3, latency_max_ms=longest)

    def delivered(self, sink: str) -> None:
        with self._lock:
            self._stats.delivered[sink] = self._stats.delivered.get(sink, 0) + 1

    def fault(self, name: str, text: str | None) -> None:
        """What is wrong with a sink or the source; None: nothing any more."""
        with self._lock:
            self._stats.faults.pop(name, None)
            if text is not None:
                self._stats.faults[name] = text

    def now(self, spooled: int) -> Stats:
        with self._lock:
            delivered, faults = dict(self._stats.delivered), dict(self._stats.faults)
            return replace(self._stats, spooled=spooled, seconds=time.monotonic() - self._begin, delivered=delivered, faults=faults)
