"""The `sightline` command."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from . import __version__, arguments, batch, chat, gallery, show, summary
from . import feedback_command as feedback
from . import segment_command as segment
from .arguments import box, free_name, options, positive, question
from .client import Client
from .draw import overlay
from .errors import InvalidInput, NotInspected, ServerFault, Unreachable
from .feedback import Feedback
from .line import command as line
from .report import Complete, Report
from .web import command as web

NORMAL, ANOMALY, NOT_INSPECTED = 0, 1, 2
EXIT_CODES = "exit code: 0 all normal, 1 an anomaly was found, 2 a picture was not inspected (2 goes before 1)"
INSPECT_EXAMPLES = f"""examples:
  sightline inspect cell.png --out overlays
  sightline inspect *.png --product cell --json
  sightline inspect board.jpg --box 40,60,310,280 --prompt "Is the connector bent?"

{EXIT_CODES}"""
BATCH_EXAMPLES = f"""examples:
  sightline batch pictures --out results.jsonl
  sightline batch pictures --out results.jsonl --csv results.csv --html results.html --product cell

Ctrl-C lets the requests in flight end; the same command goes on.
{EXIT_CODES}"""
CHAT_EXAMPLES = """examples:
  sightline chat cell.png
  sightline chat cell.png --product cell --json < questions.txt"""
ENROLL_EXAMPLES = """examples:
  sightline enroll cell good/*.png --description "This is a photo of a solar cell."
  sightline enroll cell good/*.png --feedback feedback"""
PRODUCTS_EXAMPLES = """examples:
  sightline products
  sightline products --describe cell --json
  sightline products --remove cell"""


def main(words: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without the symbols still gets the words
    args = parser().parse_args(words)
    try:
        if args.url is None:  # a line's description names its own server
            return int(args.run(None, args))
        with Client(args.url, timeout=args.timeout, tls=arguments.tls(args)) as client:
            return int(args.run(client, args))
    except NotInspected as error:
        print(f"sightline: {type(error).__name__}: {error.message}", file=sys.stderr)
        return NOT_INSPECTED
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_INSPECTED
    except OSError as error:
        print(f"sightline: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return NOT_INSPECTED
    except KeyboardInterrupt as stop:
        print(": ".join(("sightline: stopped", *map(str, stop.args))), file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="sightline", description="Visual inspection: is this part good, where is it not, and why.")
    root.add_argument("--version", action="version", version=f"sightline {__version__}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    inspect = _command(commands, "inspect", _inspect, "verdict for each picture", INSPECT_EXAMPLES)
    inspect.add_argument("images", nargs="+", metavar="IMAGE")
    question(inspect)
    inspect.add_argument("--out", type=Path, metavar="DIR", help="write an overlay picture for each image there")
    inspect.add_argument("--json", action="store_true", help="print one JSON report a line")
    inspect.add_argument("--stream", action="store_true", help="show the verdict first and the sentence as it is written")

    folder = _command(commands, "batch", _batch, "a folder of pictures into a JSONL file; run again to go on", BATCH_EXAMPLES)
    folder.add_argument("dir", type=Path, metavar="DIR")
    folder.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="one line a picture: its report, or an error")
    folder.add_argument("--csv", type=Path, metavar="FILE.csv", help="one row a picture: name, verdict, score, locations, text, error")
    folder.add_argument("--html", type=Path, metavar="FILE.html", help="a page with the counts and the anomalies' overlays")
    folder.add_argument("--json", action="store_true", help="print each new line of FILE.jsonl too")
    folder.add_argument("--concurrency", type=positive(int), default=4, metavar="N", help="requests at a time (4)")
    question(folder)

    talk = _command(commands, "chat", _chat, "a dialogue about one picture", CHAT_EXAMPLES)
    talk.add_argument("image", metavar="IMAGE")
    talk.add_argument("--json", action="store_true", help="print one JSON report a question")
    question(talk, prompt=False)

    enroll = _command(commands, "enroll", _enroll, "register a product from pictures of normal parts", ENROLL_EXAMPLES)
    enroll.add_argument("name", metavar="NAME")
    enroll.add_argument("images", nargs="+", metavar="GOOD")
    enroll.add_argument("--description", metavar="TEXT", help="what the product is, told to the language model")
    enroll.add_argument("--prompt", metavar="TEXT", help="the question asked for this product")
    enroll.add_argument("--box", type=box, metavar="X0,Y0,X1,Y1", help="the part inside each picture, in pixels")
    enroll.add_argument("--feedback", type=Path, metavar="DIR", help="keep the pictures there: then the product can learn a false alarm")
    enroll.add_argument("--json", action="store_true", help="print the server's answer as JSON")

    products = _command(commands, "products", _products, "list the enrolled products", PRODUCTS_EXAMPLES)
    one = products.add_mutually_exclusive_group()
    one.add_argument("--describe", metavar="NAME", help="show one product")
    one.add_argument("--remove", metavar="NAME", help="forget a product")
    products.add_argument("--json", action="store_true", help="print the server's answer as JSON")
    segment.add(commands, _command)
    feedback.add(commands, _command)
    line.add(commands, _command)
    web.add(commands, _command)
    return root


def _command(commands: Any, name: str, run: Any, text: str, epilog: str, server: bool = True) -> argparse.ArgumentParser:
    """`epilog`: at least one example. `server`: `run` is given a client."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.set_defaults(run=run, url=None)
    if server:
        arguments.server(command)
    return command


def _inspect(client: Client, args: argparse.Namespace) -> int:
    console, code = Console(), NORMAL
    taken: set[str] = set()
    for image in args.images:
        try:
            report = _inspect_one(client, image, args, console)
            if args.out:
                _draw(image, report, args.out, taken, console, quiet=args.json)
            code = max(code, ANOMALY if report.anomaly else NORMAL)
        except NotInspected as error:
            code = NOT_INSPECTED
            show.failure(console, image, error, args.json)
    return code


def _inspect_one(client: Client, image: str, args: argparse.Namespace, console: Console) -> Report:
    if args.stream and not args.json:
        return chat.written(client.stream(image, **options(args)), image, console)
    if args.stream:
        report = [event.report for event in client.stream(image, **options(args)) if isinstance(event, Complete)][-1]
    else:
        report = client.inspect(image, **options(args))
    if args.json:
        print(show.record(image, report), flush=True)
    else:
        console.print(show.verdict_line(image, report), soft_wrap=True)
        console.print(f"  {report.text}", markup=False, highlight=False, soft_wrap=True)
    return report


def _draw(image: str, report: Report, folder: Path, taken: set[str], console: Console, quiet: bool) -> None:
    """Writes `<name>_overlay.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{free_name(image, taken)}_overlay.png"
    try:
        overlay(image, report).save(path)
    except ValueError as error:  # another size than the server's: then the verdict may be about another picture
        raise ServerFault(str(error), "INTERNAL") from error
    if not quiet:
        console.print(f"  overlay: {path}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _batch(client: Client, args: argparse.Namespace) -> int:
    pictures = batch.find(args.dir)
    if not pictures:
        raise InvalidInput(f"{args.dir}: no pictures in it", "INVALID_ARGUMENT")
    if not client.ready():
        raise Unreachable(f"no server is ready at {args.url}", "UNAVAILABLE")
    console = Console(stderr=True)
    with batch.bar(console) as progress:
        told = partial(print, flush=True) if args.json else str
        outcome = batch.run(client, pictures, args.out, options(args), args.concurrency, progress, told)
        if args.csv or args.html:
            _summarise(args, summary.rows(args.out, pictures), progress)
    console.print(f"{outcome.normal} normal, {outcome.anomaly} anomalous, {outcome.failed} not inspected: {args.out}", highlight=False)
    return NOT_INSPECTED if outcome.failed else ANOMALY if outcome.anomaly else NORMAL


def _summarise(args: argparse.Namespace, found: list[summary.Row], progress: Progress) -> None:
    if args.csv:
        summary.write_csv(args.csv, found)
    if args.html:
        task = progress.add_task("drawing", total=len(gallery.anomalies(found)), found="")
        asked = ", ".join(f"{name}: {value}" for name, value in batch.fingerprint(options(args)).items())
        gallery.write_html(args.html, gallery.Heading(str(args.dir), asked), found, lambda: progress.advance(task))


def _chat(client: Client, args: argparse.Namespace) -> int:
    return chat.run(client, args.image, options(args), args.json)


def _enroll(client: Client, args: argparse.Namespace) -> int:
    recipe = {"description": args.description, "prompt": args.prompt, "box": args.box}
    if args.feedback:
        answer = Feedback(args.feedback).enroll(client, args.name, args.images, **recipe)
    else:
        answer = client.enroll(args.name, args.images, **recipe)
    return _tell(answer, args)


def _products(client: Client, args: argparse.Namespace) -> int:
    if args.remove:
        answer = client.remove(args.remove)
    else:
        answer = client.describe(args.describe) if args.describe else client.products()
    return _tell(answer, args)


def _tell(answer: Any, args: argparse.Namespace) -> int:
    if args.json:
        print(show.line(answer))
    else:
        show.products(Console(), answer)
    return NORMAL
