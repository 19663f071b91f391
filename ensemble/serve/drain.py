"""Before tritonserver is told to stop: nobody new is admitted, and whoever was is answered.

Triton alone fails an ensemble's request at its next step, for a stopping server starts no step any more (measured on 24.10).
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_SECONDS = 0.02


def empty(run: str, end: float, ended: Callable[[], object | None]) -> bool:
    """Close the run's ledger and wait until it is empty; False at `end` (monotonic), or where the server has died."""
    from sightline_ensemble import ledger  # with numpy, which the supervisor else does without

    path = ledger.path_of(run)
    if not path.exists():
        return True  # no step of this repository admits requests
    rows = ledger.Ledger(path)
    rows.close()
    while rows.in_flight():
        if time.monotonic() > end or ended() is not None:
            return False
        time.sleep(LOOK_SECONDS)
    return True
