"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .tls import Tls


def server(command: argparse.ArgumentParser) -> None:
    url = os.environ.get("SIGHTLINE_URL", "localhost:8001")
    command.add_argument("--url", default=url, metavar="HOST:PORT", help=f"gRPC address of the server ({url}; environment: SIGHTLINE_URL)")
    command.add_argument("--timeout", type=positive(float), default=60.0, metavar="S", help="seconds until a request is given up (60)")
    command.add_argument("--tls-root", type=Path, metavar="FILE", help="PEM: TLS; this authority has signed the server's certificate")
    command.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM: our own key, where the server asks for it (mutual TLS)")
    command.add_argument("--tls-chain", type=Path, metavar="FILE", help="PEM: our own certificate, with the key")
    command.add_argument("--tls-name", metavar="NAME", help="the name in the server's certificate, where its address is another one")


def tls(args: argparse.Namespace) -> Tls | None:
    """None, an unencrypted connection, where no option of TLS is given."""
    given = Tls(args.tls_root, args.tls_key, args.tls_chain, args.tls_name)
    return given if given != Tls() else None


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
