"""`make load`: the long load tests, one server each so that none warms another one up; about an hour on two cores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS = ("comparison.py", "overload.py", "soak.py", "perf_analyzer/sweep.py", "perf_analyzer/report.py", "readme.py")


def main() -> int:
    """1 where a bar is missed or a step fails; the others run all the same."""
    return max(min(subprocess.run([sys.executable, str(HERE / step)]).returncode, 1) for step in STEPS)


if __name__ == "__main__":
    sys.exit(main())
