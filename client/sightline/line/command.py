"""The commands `sightline line` and `sightline watch`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import tables
from ..arguments import tls
from ..errors import InvalidInput
from ..policy import Policy
from . import config
from .assemble import run
from .config import Config
from .folder import Folder
from .jsonl import Jsonl
from .over_http import Snapshot
from .parts import Load, Record
from .runner import Pace
from .stats import Stats

EXIT_CODES = """exit code where the source ends, as a folder taken once or a video file does:
0 all normal, 1 an anomaly was found, 2 a part was not inspected (2 goes before 1); 0 where it never ends"""
LINE_EXAMPLES = f"""examples:
  sightline line --config line.toml
  sightline line --config line.toml --json --every 60

{EXIT_CODES}"""
WATCH_EXAMPLES = f"""examples:
  sightline watch incoming --out results --product cell
  sightline watch pictures --out results --once --json
  sightline watch camera:0 --out results --takt 2
  sightline watch http://camera-3/snapshot.jpg --out results --takt 2

{EXIT_CODES}"""


def add(commands: Any, command: Any) -> None:
    """Adds both to the parser. `command(commands, name, run, text, epilog, server)` makes one that may name its server."""
    line = command(commands, "line", _line, "run a line: source, inspection, sinks, as its file describes it", LINE_EXAMPLES, server=False)
    line.add_argument("--config", type=Path, required=True, metavar="FILE.toml", help="the line's description")
    line.add_argument("--json", action="store_true", help="print the statistics as JSON lines")
    line.add_argument("--every", type=float, default=10.0, metavar="S", help="seconds between two lines of statistics (10)")

    watch = command(commands, "watch", _watch, "inspect what a folder or a camera gives, until Ctrl-C", WATCH_EXAMPLES)
    watch.add_argument("source", metavar="SOURCE", help="a folder, camera:NUMBER, a video file, or the http address of a snapshot")
    watch.add_argument("--once", action="store_true", help="of a folder: end when all that is there has been inspected")
    watch.add_argument("--out", type=Path, required=True, metavar="DIR", help="results.jsonl, overlays and the spool")
    watch.add_argument("--takt", type=float, default=1.0, metavar="S", help="seconds from one part to the next (1); folder: at least")
    watch.add_argument("--product", metavar="NAME", help="an enrolled product")
    watch.add_argument("--prompt", metavar="TEXT", help="the question")
    watch.add_argument("--json", action="store_true", help="print one record a line")


class Printed:
    """A sink: the terminal."""

    def __init__(self, as_json: bool) -> None:
        self._json, self._console = as_json, Console()

    def open(self) -> None:
        pass

    def deliver(self, record: Record, picture: Load) -> None:
        if self._json:
            print(record.json(), flush=True)
            return
        symbol, style = {"normal": ("✓", "green"), "anomaly": ("✗", "bold red")}.get(record.outcome, ("!", "bold yellow"))
        words = record.report["text"] if record.report else (record.error or {}).get("message", "")
        label = f"{symbol} {record.outcome.replace('_', ' ').upper()}{' (corrected)' if record.correction else ''}"
        self._console.print(f"{label}  {record.part}  {record.name}", style=style, markup=False, highlight=False, soft_wrap=True)
        self._console.print(f"  {words}", style="dim", markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass


def _line(_: Any, args: argparse.Namespace) -> int:
    told, made = _as_json if args.json else _as_text, config.read(args.config)
    stats = run(made, told, args.every)
    _finally(stats, args.json)
    return _code(made.source, stats)


def _watch(_: Any, args: argparse.Namespace) -> int:
    asked = {name: getattr(args, name) for name in ("product", "prompt") if getattr(args, name) is not None}
    sinks = {"jsonl": Jsonl(args.out / "results.jsonl", args.out / "overlays"), "terminal": Printed(args.json)}
    pace = Pace(takt=args.takt, timeout=args.timeout)
    args.out.mkdir(parents=True, exist_ok=True)
    made = Config("watch", args.out / "state", pace, args.url, tls(args), Policy(), asked, source(args.source, args.once), sinks)
    stats = run(made)
    _finally(stats, as_json=False)
    return _code(made.source, stats)


def _code(source: Any, stats: Stats) -> int:
    """What was found, where the source ends by itself. One that goes on for ever is ended by a signal, in good order."""
    device = str(getattr(source, "device", ""))
    if not getattr(source, "once", False) and (device.isdigit() or not Path(device).is_file()):
        return 0
    return 2 if stats.not_inspected > stats.corrected else int(stats.anomaly + stats.corrected_anomaly > 0)


def source(text: str, once: bool = False) -> Any:
    """The source that `sightline watch SOURCE` names."""
    if text.startswith(("http://", "https://")):
        return Snapshot(text)
    if Path(text).is_dir():
        return Folder(Path(text), once=once)
    device = text.removeprefix("camera:")
    if not (device.isdigit() or "://" in device or Path(device).exists()):
        expected = "a folder, camera:NUMBER, a video file or an address"
        raise InvalidInput(f"{text}: no such folder or file; expected {expected}", "INVALID_ARGUMENT")
    return config.made_source({"kind": "camera", "device": device}, Path.cwd())


def _finally(stats: Stats, as_json: bool) -> None:
    console = Console(stderr=True)
    if as_json:
        _as_json(stats)
    elif console.is_terminal:
        tables.statistics(console, stats.values())
    else:
        _as_text(stats)


def _as_text(stats: Stats) -> None:
    print(stats.line(), file=sys.stderr, flush=True)


def _as_json(stats: Stats) -> None:
    print(json.dumps(stats.values(), ensure_ascii=False), flush=True)
