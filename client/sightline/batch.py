"""A folder of pictures into a JSONL file; run again, it goes on where it stopped."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import show
from .client import Client
from .errors import InvalidInput, NotInspected, Unreachable
from .report import Report
from .signals import stopped_by_signals

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
PATIENCE_S = 45.0  # longer than a supervised restart of the server takes


@dataclass(frozen=True)
class Picture:
    """A file and what tells whether it has changed since it was inspected."""

    path: Path
    stamp: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """How many pictures have which result, those of earlier runs included."""

    normal: int = 0
    anomaly: int = 0
    failed: int = 0

    @property
    def count(self) -> int:
        return self.normal + self.anomaly + self.failed

    def add(self, verdict: str | None) -> Outcome:
        return Outcome(self.normal + (verdict == "normal"), self.anomaly + (verdict == "anomaly"), self.failed + (verdict is None))


def find(folder: Path) -> list[Picture]:
    """All pictures below `folder`, by name. InvalidInput where there is no such folder."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such directory", "INVALID_ARGUMENT")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    return [Picture(path, {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}) for path in paths]


def run(
    client: Client,
    pictures: list[Picture],
    out: Path,
    options: dict[str, Any],
    concurrency: int,
    progress: Progress,
    told: Callable[[str], object] = lambda line: None,
) -> Outcome:
    """Inspects what `out` does not hold yet. Unreachable ends the run; every other failure is a line with `error`.

    Ctrl-C and SIGTERM let the requests in flight end, so that none is made twice; then KeyboardInterrupt is raised. `told` hears
    each line that is added.
    """
    asked = fingerprint(options)
    done = resume(out, pictures, asked)
    outcome = Outcome()
    for verdict in done.values():
        outcome = outcome.add(verdict)
    task = progress.add_task("inspecting", total=len(pictures), completed=len(done), found=_words(outcome))
    todo = (picture for picture in pictures if str(picture.path) not in done)
    stop = threading.Event()
    with out.open("a", encoding="utf-8") as lines, stopped_by_signals(stop.set):
        for picture, answer in _inspect_all(client, todo, options, concurrency, stop):
            outcome = outcome.add(answer.verdict if isinstance(answer, Report) else None)
            told(_write(lines, picture, answer, asked))
            progress.update(task, advance=1, found=_words(outcome))
            if isinstance(answer, Unreachable):
                raise answer
    if outcome.count < len(pictures):
        raise KeyboardInterrupt(f"{outcome.count} of {len(pictures)} pictures are done; run it again to go on")
    return outcome


def fingerprint(options: dict[str, Any]) -> dict[str, Any]:
    """What was asked, as it stands in each line: another question is another inspection."""
    return {key: value for key, value in options.items() if value is not None and key != "timeout"}


def resume(out: Path, pictures: list[Picture], asked: dict[str, Any]) -> dict[str, str]:
    """Verdicts that need no new inspection, by picture. Drops lines that are torn, failed, or of a changed picture or question."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        return {}
    stamps = {str(picture.path): picture.stamp for picture in pictures}
    done: dict[str, str] = {}
    keep: list[str] = []
    # A torn line may end inside a letter; splitlines() would also split at what only Unicode calls a line's end.
    for line in out.read_text("utf-8", "replace").split("\n"):
        entry = _entry(line)
        name = entry.get("image")
        if entry.get("verdict") is None or name in done:
            continue
        if name in stamps:
            if entry.get("file") != stamps[name] or entry.get("asked") != asked:
                continue
            done[name] = entry["verdict"]
        keep.append(line)
    _replace(out, keep)
    return done


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _replace(out: Path, lines: list[str]) -> None:
    """All or nothing, so that a run stopped here loses no line."""
    draft = out.with_name(out.name + ".part")
    draft.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    os.replace(draft, out)


def _write(lines: TextIO, picture: Picture, answer: Report | NotInspected, asked: dict[str, Any]) -> str:
    notes = {"file": picture.stamp, "asked": asked}
    name = str(picture.path)
    line = show.record(name, answer, **notes) if isinstance(answer, Report) else show.error_record(name, answer, **notes)
    lines.write(line + "\n")
    lines.flush()
    return line


def _inspect_all(
    client: Client, pictures: Iterator[Picture], options: dict[str, Any], concurrency: int, stop: threading.Event
) -> Iterator[tuple[Picture, Report | NotInspected]]:
    """Answers as they come, never more than `concurrency` requests (and pictures in memory) at a time; no new ones after `stop`."""
    pool = ThreadPoolExecutor(concurrency)
    running: dict[Future[Report | NotInspected], Picture] = {}
    try:
        while True:
            for picture in islice(pictures, 0 if stop.is_set() else concurrency - len(running)):
                running[pool.submit(_inspect, client, picture.path, options, stop)] = picture
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _inspect(client: Client, path: Path, options: dict[str, Any], stop: threading.Event) -> Report | NotInspected:
    """A full queue and a restarting server are waited for; every other failure is final."""
    pause, end = 0.2, time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.inspect(path, **options)
        except NotInspected as error:
            if not error.transient or time.monotonic() + pause > end:
                return error
            if stop.wait(pause * random.uniform(0.5, 1.0)):
                return error
        pause = min(pause * 2, 4.0)


def bar(console: Any) -> Progress:
    """Progress bar with a count of what was found so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[found]}"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def _words(outcome: Outcome) -> str:
    return f"[green]✓ {outcome.normal}[/] [red]✗ {outcome.anomaly}[/] [yellow]! {outcome.failed}[/]"
