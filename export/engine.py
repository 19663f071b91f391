"""`sightline-export engine`: the ONNX graphs of a profile -> TensorRT plans for one GPU architecture and TensorRT version.

The plan is written under another name and renamed when it is whole; `model.plan` is a link, switched in one step.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sightline_ensemble import plans
from sightline_ensemble.artefacts import ArtefactError, file_hash, load_manifest, profiles, verify
from sightline_ensemble.contract import MODELS, SEG_SLOTS, Model, Range
from sightline_ensemble.plans import LINK, PRECISIONS, Host, Plan

from .trt import Built, EngineError, Toolkit, build, toolkit

T = TypeVar("T")
ENGINES = tuple(model.name for model in MODELS.values() if model.engine)


@dataclass(frozen=True)
class Options:
    """What the command line asks for. `precision` and `architectures` empty: the best there is; `batches` empty: the spec's."""

    repository: Path
    profile: str | None = None
    models: tuple[str, ...] = ()
    precision: str = ""
    batches: tuple[Range, ...] = ()
    axes: tuple[tuple[str, Range], ...] = ()
    architectures: tuple[str, ...] = ()
    timing_cache: Path | None = None
    onnx: Path | None = None
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Job:
    """One plan to build. `hashes`: of the graph's files; `link`: make it the plan in use."""

    model: str
    onnx: Path
    hashes: Mapping[str, str]
    precision: str
    folder: Path
    ranges: tuple[dict[str, Range], ...]
    link: bool


def export_engines(options: Options, console: Console | None = None, host: Host | None = None) -> list[Plan]:
    """Build every plan asked for, in order; prints each one's ranges, time and memory.

    Raises:
        EngineError, ArtefactError: one line; the plans built before it stay.
        KeyboardInterrupt: Ctrl-C ended the build; nothing of the unfinished plan is left.
    """
    console, kit = console or Console(), toolkit()
    jobs = [_loose(options)] if options.onnx else _of_repository(options)
    architectures = _architectures(kit, options.architectures, host or plans.this_host())
    console.print(f"{plans.FLAVOURS[kit.flavour]} {kit.version} for {', '.join(architectures)}")
    if options.timing_cache and not kit.timing_cache:
        console.print(f"no timing cache: {plans.FLAVOURS[kit.flavour]} has none, its plans are tuned where they are loaded", soft_wrap=True)
    return [_make(job, kit, architectures, options, console) for job in jobs]


# --- what to build ----------------------------------------------------------------------------------------------------
def _loose(options: Options) -> Job:
    onnx, folder = options.onnx, options.out
    assert onnx is not None
    if len(options.models) != 1 or folder is None:
        raise EngineError(f"{onnx}: a graph outside of a repository needs one --model ({', '.join(ENGINES)}) and --out DIR")
    if not onnx.is_file():
        raise EngineError(f"{onnx}: no such file")
    files = [path for path in (onnx, onnx.with_name(f"{onnx.name}.data")) if path.is_file()]
    hashes = {path.name: file_hash(path) for path in files}
    return Job(options.models[0], onnx, hashes, options.precision or "fp32", folder, _ranges(options, SEG_SLOTS), link=False)


def _of_repository(options: Options) -> list[Job]:
    models = options.models or tuple(model for model in ENGINES if profiles(options.repository / model))
    if not models:
        raise EngineError(f"{options.repository}: no ONNX graphs; make them with `sightline-export sam` or `sightline-export tiny`")
    return [_from_manifest(options, model) for model in models]


def _from_manifest(options: Options, model: str) -> Job:
    manifest = load_manifest(options.repository / model, options.profile or None)
    listed = {precision: plans.listed_onnx(manifest, precision) for precision in PRECISIONS}
    precision = options.precision or next((name for name in PRECISIONS if listed[name]), "fp32")
    if not listed[precision]:
        raise EngineError(
            f"{model}: profile '{manifest.profile}' has no {plans.onnx_name(precision)}, "
            f"only {', '.join(plans.onnx_name(name) for name in PRECISIONS if listed[name]) or 'no graph at all'}"
        )
    verify(replace(manifest, files=listed[precision]))  # never a plan from a damaged graph
    ranges = _ranges(replace(options, models=(model,)), int(manifest.dims.get("slots", SEG_SLOTS)))
    return Job(model, manifest.folder / plans.onnx_name(precision), listed[precision], precision, manifest.folder, ranges, link=True)


def _ranges(options: Options, slots: int) -> tuple[dict[str, Range], ...]:
    """The optimisation profiles: the spec's, with the batches and axes that the command line replaces."""
    found: list[dict[str, Range]] = []
    for spec in MODELS[options.models[0]].ranges:
        for batch in options.batches or (spec["batch"],):
            sizes = {"slots": (slots, slots, slots), **spec, "batch": batch, **dict(options.axes)}
            if sizes not in found:
                found.append(sizes)
    return tuple(found)


def _architectures(kit: Toolkit, asked: Sequence[str], host: Host) -> tuple[str, ...]:
    """What the plan will run on; EngineError where this toolkit cannot build for it here."""
    known = tuple(kit.architectures())
    if not known:  # TensorRT times its kernels on the GPU itself
        if not host.architectures:
            raise EngineError("TensorRT builds for the GPU it runs on, and nvidia-smi finds none here; build on the target machine")
        known = host.architectures[:1]
    if unknown := [name for name in asked if name not in known]:
        where = f"{plans.FLAVOURS[kit.flavour]} {kit.version}"
        raise EngineError(f"{where} builds for {', '.join(known)} here, not for {', '.join(unknown)}; build that on its own machine")
    present = tuple(name for name in host.architectures if name in known)
    # sm_75 only on demand: it would take fp32 matrix products away from all others.
    return tuple(asked) or present or tuple(name for name in known if name != "sm_75")


# --- building ---------------------------------------------------------------------------------------------------------
def _make(job: Job, kit: Toolkit, architectures: tuple[str, ...], options: Options, console: Console) -> Plan:
    path = job.folder / plans.plan_name(job.model, architectures, kit.flavour, kit.version, job.precision, job.hashes)
    plan = None if options.force else _present(path, job)
    if plan is None:
        plan = _build(job, kit, architectures, options, path, console)
    if job.link:
        switch(job.folder / LINK, path.name)
    _report(plan, console)
    return plan


def _present(path: Path, job: Job) -> Plan | None:
    """The same plan from an earlier run, whole and with the same ranges."""
    try:
        plan = plans.read_plan(path)
    except ArtefactError:
        return None
    same = plan.build.get("ranges") == json.loads(json.dumps(job.ranges))
    return plan if same and path.is_file() and file_hash(path) == plan.sha256 else None


def _build(job: Job, kit: Toolkit, architectures: tuple[str, ...], options: Options, path: Path, console: Console) -> Plan:
    cache = options.timing_cache if kit.timing_cache else None
    earlier = cache.read_bytes() if cache and cache.is_file() else b""
    start = time.perf_counter()
    with _peak_memory() as peak, _progress(console) as progress:
        built = interruptible(lambda cancelled: build(kit, job.onnx, job.ranges, architectures, progress, cancelled, earlier))
        spent = {"seconds": round(time.perf_counter() - start, 1), "peak_mib": peak()}
    _check_tensors(built, MODELS[job.model], job.onnx)
    job.folder.mkdir(parents=True, exist_ok=True)
    with whole(path) as plan_file, whole(path.with_suffix(".json")) as described:
        plan_file.write_bytes(built.plan)
        plan = Plan(
            job.model, architectures, kit.flavour, kit.version, job.precision, dict(job.hashes), file_hash(plan_file),
            len(built.plan), built.inputs, built.outputs, built.profiles, {"ranges": job.ranges, **spent}, path,
        )  # fmt: skip
        described.write_text(json.dumps({key: value for key, value in asdict(plan).items() if key != "path"}, indent=2) + "\n")
    if cache and built.cache:
        with whole(cache) as temporary:
            temporary.write_bytes(built.cache)
    return plans.read_plan(path)


def _check_tensors(built: Built, model: Model, onnx: Path) -> None:
    """EngineError unless the plan takes and gives what the spec says: Triton would refuse it when the server starts."""
    for kind, found, tensors in (("inputs", built.inputs, model.inputs), ("outputs", built.outputs, model.outputs)):
        expected = {tensor.name: tensor.dtype for tensor in tensors}
        if found != expected:
            raise EngineError(f"{onnx}: {kind} {found}, expected those of {model.name}: {expected}")


def _report(plan: Plan, console: Console) -> None:
    """The optimisation profiles as a table, dynamic axes as smallest,tuned,largest; then the file."""
    table = Table(*plan.inputs, title=f"{plan.model}, {plan.precision}", title_justify="left")
    for profile in plan.profiles:
        table.add_row(*(" x ".join(map(_sizes, zip(*profile[name], strict=True))) for name in plan.inputs))
    console.print(table)
    built = f"built in {plan.build['seconds']} s, peak memory {plan.build['peak_mib']} MiB"
    console.print(f"{plan.path}: {plan.bytes / 2**20:.0f} MiB, {built}", soft_wrap=True)


def _sizes(axis: tuple[int, ...]) -> str:
    return str(axis[0]) if axis[0] == axis[2] else ",".join(map(str, axis))


# --- files, signals, memory -------------------------------------------------------------------------------------------
@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to; becomes `path` when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def switch(link: Path, target: str) -> None:
    """Point a relative link at another file of its folder, in one step."""
    with whole(link) as temporary:
        temporary.symlink_to(target)


def interruptible(work: Callable[[Event], T]) -> T:
    """Run `work` on a thread, since the builder holds its own too long for Python's signal handlers; Ctrl-C sets the event it is given."""
    cancelled = Event()
    with ThreadPoolExecutor(1) as pool:
        try:  # around the start too: the signal may come before we wait
            return pool.submit(work, cancelled).result()
        except KeyboardInterrupt:
            cancelled.set()
            raise


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


@contextmanager
def _peak_memory() -> Iterator[Callable[[], int]]:
    """A function that tells the largest resident size of this process since the block began, in MiB (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far; where that is forbidden the peak is the whole run's
    yield lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
