"""The `sightline` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from . import Client, Complete, InvalidInput, NotInspected, Report, ServerFault, Unreachable, __version__, batch, chat, show
from .draw import overlay
from .line import command as line
from .web import command as web

NORMAL, ANOMALY, NOT_INSPECTED = 0, 1, 2
EXIT_CODES = "exit code: 0 all normal, 1 an anomaly was found, 2 a picture was not inspected (2 goes before 1)"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without the symbols still gets the words
    args = parser().parse_args(arguments)
    try:
        if args.url is None:  # a line's description names its own server
            return int(args.run(None, args))
        with Client(args.url, timeout=args.timeout) as client:
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
    except KeyboardInterrupt:
        print("sightline: stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="sightline", description="Visual inspection: is this part good, where is it not, and why.")
    root.add_argument("--version", action="version", version=f"sightline {__version__}")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    inspect = _command(commands, "inspect", _inspect, "verdict for each picture", epilog=EXIT_CODES)
    inspect.add_argument("images", nargs="+", metavar="IMAGE")
    _question(inspect)
    inspect.add_argument("--out", type=Path, metavar="DIR", help="write an overlay picture for each image there")
    inspect.add_argument("--json", action="store_true", help="print one JSON report a line")
    inspect.add_argument("--stream", action="store_true", help="show the verdict first and the sentence as it is written")

    folder = _command(commands, "batch", _batch, "a folder of pictures into a JSONL file; run again to go on", epilog=EXIT_CODES)
    folder.add_argument("dir", type=Path, metavar="DIR")
    folder.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="one line a picture: its report, or an error")
    folder.add_argument("--concurrency", type=_positive(int), default=4, metavar="N", help="requests at a time (4)")
    _question(folder)

    talk = _command(commands, "chat", _chat, "a dialogue about one picture")
    talk.add_argument("image", metavar="IMAGE")
    _question(talk, prompt=False)

    enroll = _command(commands, "enroll", _enroll, "register a product from pictures of normal parts")
    enroll.add_argument("name", metavar="NAME")
    enroll.add_argument("images", nargs="+", metavar="GOOD")
    enroll.add_argument("--description", metavar="TEXT", help="what the product is, told to the language model")
    enroll.add_argument("--prompt", metavar="TEXT", help="the question asked for this product")
    enroll.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="the part inside each picture, in pixels")

    products = _command(commands, "products", _products, "list the enrolled products")
    one = products.add_mutually_exclusive_group()
    one.add_argument("--describe", metavar="NAME", help="show one product")
    one.add_argument("--remove", metavar="NAME", help="forget a product")
    products.add_argument("--json", action="store_true", help="print the server's answer as JSON")
    line.add(commands, _command)
    web.add(commands, _command)
    return root


def _command(commands: Any, name: str, run: Any, text: str, epilog: str | None = None) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog)
    command.set_defaults(run=run)
    url = os.environ.get("SIGHTLINE_URL", "localhost:8001")
    command.add_argument("--url", default=url, metavar="HOST:PORT", help=f"gRPC address of the server ({url}; environment: SIGHTLINE_URL)")
    command.add_argument("--timeout", type=_positive(float), default=60.0, metavar="S", help="seconds until a request is given up (60)")
    return command


def _question(command: argparse.ArgumentParser, prompt: bool = True) -> None:
    if prompt:
        command.add_argument("--prompt", metavar="TEXT", help="the question; without it: is there any anomaly, where, and what")
    command.add_argument("--product", metavar="NAME", help="an enrolled product")
    command.add_argument("--box", type=_box, metavar="X0,Y0,X1,Y1", help="inspect only the part inside, in pixels")
    command.add_argument("--reference", nargs="+", metavar="GOOD", help="pictures of normal parts, for these requests only")
    command.add_argument("--expert", metavar="TEXT", help="a hint from another expert")
    command.add_argument("--max-tokens", type=int, metavar="N", help="longest answer, 1 to 512 (96)")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("prompt", "product", "box", "reference", "expert", "max_tokens")
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def _box(text: str) -> list[float]:
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected four numbers X0,Y0,X1,Y1, got {text!r}") from None
    return [x0, y0, x1, y1]


def _positive(kind: type) -> Any:
    def number(text: str) -> Any:
        if not 0 < (value := kind(text)) < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
        return value

    return number


def _inspect(client: Client, args: argparse.Namespace) -> int:
    console, code = Console(), NORMAL
    taken: set[Path] = set()
    for image in args.images:
        try:
            report = _inspect_one(client, image, args, console)
            if args.out:
                _draw(image, report, args.out, taken, console, quiet=args.json)
            code = max(code, ANOMALY if report.anomaly else NORMAL)
        except NotInspected as error:
            code = NOT_INSPECTED
            if args.json:
                print(show.error_record(image, error), flush=True)
            else:
                console.print(show.error_line(image, error), soft_wrap=True)
    return code


def _inspect_one(client: Client, image: str, args: argparse.Namespace, console: Console) -> Report:
    if args.stream and not args.json:
        return chat.answer(client, image, image, args.prompt, [], _options(args), console)
    if args.stream:
        report = [event.report for event in client.stream(image, **_options(args)) if isinstance(event, Complete)][-1]
    else:
        report = client.inspect(image, **_options(args))
    if args.json:
        print(show.record(image, report), flush=True)
    else:
        console.print(show.verdict_line(image, report), soft_wrap=True)
        console.print(f"  {report.text}", markup=False, highlight=False, soft_wrap=True)
    return report


def _draw(image: str, report: Report, folder: Path, taken: set[Path], console: Console, quiet: bool) -> None:
    """Writes `<name>_overlay.png`, numbered where two images of this run have one name."""
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{Path(image).stem}_overlay.png", 2
    while path in taken:
        path, number = folder / f"{Path(image).stem}_overlay_{number}.png", number + 1
    taken.add(path)
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
        outcome = batch.run(client, pictures, args.out, _options(args), args.concurrency, progress)
    console.print(f"{outcome.normal} normal, {outcome.anomaly} anomalous, {outcome.failed} not inspected: {args.out}", highlight=False)
    return NOT_INSPECTED if outcome.failed else ANOMALY if outcome.anomaly else NORMAL


def _chat(client: Client, args: argparse.Namespace) -> int:
    return chat.run(client, args.image, _options(args), Console())


def _enroll(client: Client, args: argparse.Namespace) -> int:
    answer = client.enroll(args.name, args.images, description=args.description, prompt=args.prompt, box=args.box)
    show.product_lines(Console(), answer)
    return NORMAL


def _products(client: Client, args: argparse.Namespace) -> int:
    if args.remove:
        answer = client.remove(args.remove)
    else:
        answer = client.describe(args.describe) if args.describe else client.products()
    if args.json:
        print(json.dumps(answer, ensure_ascii=False))
    else:
        show.product_lines(Console(), answer)
    return NORMAL
