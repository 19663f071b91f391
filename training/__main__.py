"""`python -m sightline_training`: the tiny profile's weights from nothing but installed packages, in one command.

Stages: features (frozen backbone), vision (token neck), language (adapter), sam (neck and decoder), pack (heads, deltas),
part_scenes (drawn parts through the frozen encoder), part_decoder (boxes and points), backbone (a second one, fine-tuned), witness (its
delta), export (what is served so far), fusion (how the verdict weighs its witnesses, fitted to what is served).
A stage that ended (`<stage>.done` lies in the data folder) is not run again; delete the folder to start over.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("features", "vision", "language", "sam", "pack", "part_scenes", "part_decoder", "backbone", "witness", "export", "fusion")


def command(stage: str, folder: str) -> list[str]:
    """Module and arguments of a stage."""
    match stage:
        case "witness":
            return ["sightline_training.fusion", "witness", "--data", folder]
        case "export":
            return ["sightline_export.cli", "tiny"]
        case "fusion":
            return ["sightline_training.fusion", "fit"]
    return [f"sightline_training.{stage}", "--out" if stage == "features" else "--data", folder]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sightline_training", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("build/train"), help="features and checkpoints, about 9 GB (default: %(default)s)"
    )
    folder: Path = parser.parse_args().data
    for stage in STAGES:
        done = folder / f"{stage}.done"
        if done.exists():
            print(f"{stage}: done before")
            continue
        start = time.monotonic()
        code = subprocess.run([sys.executable, "-m", *command(stage, str(folder))]).returncode
        if code:
            return code
        done.touch()
        print(f"{stage}: {(time.monotonic() - start) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
