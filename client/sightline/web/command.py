"""The command `sightline web`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..arguments import tls
from ..errors import InvalidInput
from .plant import Setup

EXAMPLE = "example: sightline web --url inspection:8001 --samples pictures"
MISSING = "sightline web needs {name}: pip install './client[web]'"


def add(commands: Any, command: Any) -> None:
    """Adds it to the parser. `command(commands, name, run, text, epilog)` makes one that names its server."""
    web = command(commands, "web", run, "the web page: inspect, ask, enrol, say what was wrong", EXAMPLE)
    setup = Setup()
    web.add_argument("--host", default=setup.host, metavar="ADDR", help=f"address to listen on ({setup.host}: this machine only)")
    web.add_argument("--port", type=int, default=setup.port, metavar="N", help=f"port ({setup.port}; 0: any free one)")
    web.add_argument("--samples", type=Path, metavar="DIR", help="a folder of pictures to try")
    web.add_argument("--feedback", type=Path, default=setup.feedback, metavar="DIR", help=f"where marks are kept ({setup.feedback})")
    web.add_argument("--users", type=int, default=setup.users, metavar="N", help=f"inspections at a time ({setup.users})")


def run(_: Any, args: argparse.Namespace) -> int:
    setup = Setup(args.url, args.host, args.port, args.timeout, args.feedback, args.samples, args.users, tls(args))
    if setup.users < 1 or not 0 <= setup.port < 65536:
        raise InvalidInput("--users: expected at least 1; --port: 0 to 65535", "INVALID_ARGUMENT")
    if setup.samples is not None and not setup.samples.is_dir():
        raise InvalidInput(f"--samples: {setup.samples} is no folder", "INVALID_ARGUMENT")
    from .app import serve

    try:
        serve(setup)
    except ModuleNotFoundError as error:
        raise InvalidInput(MISSING.format(name=error.name), "INVALID_ARGUMENT") from error
    return 0
