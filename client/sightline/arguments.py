"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def question(command: argparse.ArgumentParser, prompt: bool = True) -> None:
    if prompt:
        command.add_argument("--prompt", metavar="TEXT", help="the question; without it: is there any anomaly, where, and what")
    command.add_argument("--product", metavar="NAME", help="an enrolled product")
    command.add_argument("--box", type=box, metavar="X0,Y0,X1,Y1", help="inspect only the part inside, in pixels")
    command.add_argument("--reference", nargs="+", metavar="GOOD", help="pictures of normal parts, for these requests only")
    command.add_argument("--expert", metavar="TEXT", help="a hint from another expert")
    command.add_argument("--max-tokens", type=int, metavar="N", help="longest answer, 1 to 512 (96)")


def options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("prompt", "product", "box", "reference", "expert", "max_tokens")
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def numbers(metavar: str) -> Any:
    """A type of so many numbers with commas between."""

    def read(text: str) -> list[float]:
        try:
            found = list(map(float, text.split(",")))
        except ValueError:
            found = []
        if len(found) != metavar.count(",") + 1:
            raise argparse.ArgumentTypeError(f"expected numbers {metavar}, got {text!r}")
        return found

    return read


box = numbers("X0,Y0,X1,Y1")


def positive(kind: type) -> Any:
    def number(text: str) -> Any:
        if not 0 < (value := kind(text)) < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
        return value

    return number


def free_name(image: str, taken: set[str]) -> str:
    """The picture's name without its ending for files written beside each other; numbered where two of a run have one name."""
    stem = Path(image).stem
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name)
    return name
