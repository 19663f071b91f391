"""`sightline-export`: checkpoints in, artefacts out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="sightline-export", description="Turns checkpoints into the artefacts that model_repository/ loads.")
    commands = top.add_subparsers(dest="command", required=True)
    tiny = commands.add_parser("tiny", help="the embedded profile: real, trained weights for the CPU, no download")
    tiny.add_argument("--repository", type=Path, default=Path("model_repository"), help="where the artefacts go (default: %(default)s)")
    tiny.add_argument("--profile", default="tiny", help="the name under which sightline-serve finds them (default: %(default)s)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    from .tiny import export_tiny  # torch is slow to import: --help should not wait for it

    try:
        export_tiny(chosen.repository, chosen.profile)
    except (FileNotFoundError, RuntimeError) as error:
        print(f"sightline-export: {error}", file=sys.stderr)
        return 1
    return 0
