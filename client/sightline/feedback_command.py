"""The command `sightline feedback`: mark an answer as wrong, list the marks, let a product learn a false alarm."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.text import Text

from . import show, tables
from .client import Client
from .errors import InvalidInput
from .feedback import Effect, Feedback, Mark, Mistake
from .line.parts import SCHEMA as LINE_SCHEMA
from .report import Report, parse

MARK_EXAMPLES = """examples:
  sightline feedback mark dusty.png false_alarm --product cell --note "only dust" --accept
  sightline feedback mark pictures/7.png missed --results results.jsonl --operator Ada"""
LIST_EXAMPLES = """examples:
  sightline feedback list
  sightline feedback list --json"""
ACCEPT_EXAMPLES = """examples:
  sightline feedback accept 3f9c01aa

exit code: 0 the picture is normal now, 1 it is still an anomaly, 2 it was not inspected or nothing could be learnt"""
EXAMPLES = """examples:
  sightline enroll cell good/*.png --feedback feedback
  sightline feedback mark dusty.png false_alarm --product cell
  sightline feedback list
  sightline feedback accept 3f9c01aa"""


def add(commands: Any, command: Any) -> None:
    """Adds it to the parser. `command(commands, name, run, text, epilog, server)` makes one that may name its server."""
    top = command(commands, "feedback", None, "what operators say about answers", EXAMPLES, server=False)
    actions = top.add_subparsers(required=True, metavar="ACTION")

    mark = command(actions, "mark", _mark, "keep an answer that was wrong, with picture, report and artefact hashes", MARK_EXAMPLES)
    mark.add_argument("image", metavar="IMAGE")
    mark.add_argument("mistake", choices=get_args(Mistake), help="an anomaly that is none, or one that was not seen")
    mark.add_argument("--results", type=Path, metavar="FILE.jsonl", help="the answer in it (of batch or line); else it is inspected now")
    mark.add_argument("--product", metavar="NAME", help="what it was inspected as")
    mark.add_argument("--operator", default="", metavar="NAME", help="who says so")
    mark.add_argument("--note", default="", metavar="TEXT")
    mark.add_argument("--accept", action="store_true", help="and let the product learn it at once")

    listing = command(actions, "list", _list, "all marks, oldest first", LIST_EXAMPLES, server=False)
    accept = command(actions, "accept", _accept, "enrol a false alarm's picture as normal and inspect it again", ACCEPT_EXAMPLES)
    accept.add_argument("mark", metavar="ID", help="the mark, or the end of its id")
    for action in (mark, listing, accept):
        action.add_argument("--feedback", type=Path, default=Path("feedback"), metavar="DIR", help="where marks are kept (feedback)")
        action.add_argument("--json", action="store_true", help="print one JSON line a mark, or an effect")


def _mark(client: Client, args: argparse.Namespace) -> int:
    kept, product = Feedback(args.feedback), args.product
    if args.results:
        report, asked = _found(args.results, args.image)
        product = product or asked.get("product")
    else:
        report = client.inspect(args.image, product=product)
    mark = kept.mark(args.image, report, args.mistake, product=product, operator=args.operator, note=args.note)
    _tell(mark, args.json)
    return _shown(kept.accept(client, mark), mark, args.json) if args.accept else 0


def _found(results: Path, image: str) -> tuple[Report, dict[str, Any]]:
    """The last answer about the picture in a JSONL file of a batch or a line, and what had been asked."""
    found: tuple[dict[str, Any], dict[str, Any]] | None = None
    for line in _lines(results):
        found = _answer(line, image) or found
    if found is None:
        raise InvalidInput(f"{results}: no answer about {image} in it", "INVALID_ARGUMENT")
    answer, asked = found
    if "part" not in answer:  # as a line's sinks with `full = false` leave it out, with the masks
        raise InvalidInput(f"{results}: the answer about {image} has no masks; a sink with full = true keeps them", "INVALID_ARGUMENT")
    name = answer.pop("request_id", "")
    return replace(parse(json.dumps(answer)), request_id=name), asked


def _lines(results: Path) -> Iterator[dict[str, Any]]:
    """A file that is being written may end in half a line."""
    try:
        with results.open("rb") as texts:
            for number, text in enumerate(texts, 1):
                try:
                    line = json.loads(text)
                except ValueError:
                    if not text.endswith(b"\n"):
                        return
                    raise InvalidInput(f"{results}: line {number} is not JSON", "INVALID_ARGUMENT") from None
                if isinstance(line, dict):
                    yield line
    except OSError as error:
        raise InvalidInput(f"{results}: {error.strerror}", "INVALID_ARGUMENT") from error


def _answer(line: dict[str, Any], image: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A line's report and what was asked, where it has an answer about the picture. A line names pictures as its folder does."""
    if line.get("schema") == LINE_SCHEMA:
        named = Path(image).parts[-len(Path(line["name"]).parts) :] == Path(line["name"]).parts
        if not (named and line.get("report")):
            return None
        return {**line["report"], "request_id": line.get("request_id", "")}, line.get("asked", {})
    if line.get("image") != image or "verdict" not in line:
        return None
    return {key: value for key, value in line.items() if key not in ("image", "file", "asked")}, line.get("asked", {})


def _list(_: None, args: argparse.Namespace) -> int:
    marks, console = Feedback(args.feedback).marks(), Console()
    if console.is_terminal and marks and not args.json:
        told = ("id", "when", "mistake", "product", "operator", "note", "accepted")
        tables.rows(console, [{key: getattr(mark, key) for key in told} for mark in marks])
        return 0
    for mark in marks:
        _tell(mark, args.json)
    return 0


def _accept(client: Client, args: argparse.Namespace) -> int:
    kept = Feedback(args.feedback)
    mark = kept.find(args.mark)
    return _shown(kept.accept(client, mark), mark, args.json)


def _tell(mark: Mark, as_json: bool) -> None:
    if as_json:
        print(show.line(asdict(mark)), flush=True)
        return
    words = (mark.id, mark.when, mark.mistake, mark.product or "", mark.operator, mark.note, "accepted" if mark.accepted else "")
    Console().print("  ".join(filter(None, words)), markup=False, highlight=False, soft_wrap=True)


def _shown(effect: Effect, mark: Mark, as_json: bool) -> int:
    """What the product thought of the picture, and what it thinks now."""
    if as_json:
        told = {"mark": mark.id, "product": mark.product, "images": effect.images, "cured": effect.cured}
        print(show.line({**told, "before": effect.before.raw, "after": effect.after.raw}), flush=True)
    else:
        console = Console()
        for words, report in (("before", effect.before), ("after", effect.after)):
            console.print(show.verdict_line(words, report), soft_wrap=True)
        console.print(Text(f"{mark.product} knows {effect.images} pictures of normal parts now"), soft_wrap=True)
    return int(effect.after.anomaly)
