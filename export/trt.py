"""TensorRT behind one door: an ONNX graph and its ranges in, a serialized plan out.

Both flavours have the same interface: `tensorrt` builds for the GPU of the machine it runs on, `tensorrt_rtx` without any GPU
(its plans finish compiling where they are loaded). Networks are strongly typed: the graph's own types hold, nothing is lowered.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from rich.progress import Progress, TaskID
from sightline_ensemble.contract import Range

_MODULES = (("tensorrt", "trt"), ("tensorrt_rtx", "rtx"), ("tensorrt_rtx_bindings", "rtx"))
_TRITON_TYPES = {"FLOAT": "FP32", "HALF": "FP16"}  # the others are called the same
_ERROR = 1  # severities: internal error 0, error 1, warning 2, ...


class EngineError(RuntimeError):
    """A plan cannot be built; the text says which graph, why, and what to do."""


@dataclass(frozen=True)
class Toolkit:
    """The TensorRT module in use. `flavour`: trt (TensorRT) or rtx (TensorRT-RTX, which has no use for a timing cache)."""

    module: Any
    flavour: str
    version: str

    @property
    def timing_cache(self) -> bool:
        return self.flavour == "trt"

    def architectures(self) -> dict[str, Any]:
        """`sm_80` and the like -> the module's constant, of what it can compile for without that GPU; empty: for the one present only."""
        known = getattr(self.module, "ComputeCapability", None) if self.flavour == "rtx" else None
        names = sorted((name for name in dir(known) if name.startswith("SM")), key=lambda name: int(name[2:]))
        return {f"sm_{name[2:]}": getattr(known, name) for name in names}


@dataclass(frozen=True)
class Built:
    """A serialized plan and what it takes and gives. `profiles`: input -> (min, opt, max) shapes; `cache`: the timing cache after it."""

    plan: memoryview
    inputs: dict[str, str]
    outputs: dict[str, str]
    profiles: list[dict[str, list[list[int]]]]
    cache: bytes


def toolkit() -> Toolkit:
    """TensorRT where it is installed, else TensorRT-RTX; EngineError where neither is, or the one found is broken."""
    for name, flavour in _MODULES:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
            return Toolkit(module, flavour, module.__version__)
        except Exception as error:
            raise EngineError(f"the package {name} is installed but does not load: {_line(error)}") from None
    raise EngineError(
        "no TensorRT: install `tensorrt` in the version of the server's libnvinfer, "
        "or `tensorrt-rtx-cu13-libs` and `tensorrt-rtx-cu13-bindings`, which build without a GPU"
    )


def build(
    kit: Toolkit,
    onnx: Path,
    ranges: Sequence[Mapping[str, Range]],
    architectures: Sequence[str],
    progress: Progress,
    cancelled: Event,
    cache: bytes = b"",
) -> Built:
    """Build a plan; takes minutes for a large encoder.

    Args:
        onnx: the graph; weights in a file beside it are found.
        ranges: one optimisation profile each: name of a dynamic axis, as the graph calls it -> its sizes.
        architectures: what TensorRT-RTX compiles for; TensorRT takes the GPU that is present.
        cancelled: set from another thread, ends the build within a step.
        cache: an earlier timing cache, or none; one that does not fit is started anew.
    Raises:
        EngineError: the graph does not parse, an axis has no range, the builder fails, or it was cancelled.
    """
    trt, logger = kit.module, _logger(kit.module)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = _parse(trt, network, logger, onnx)  # noqa: F841  (it owns the weights until the plan is built)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32
    config.progress_monitor = monitor = _monitor(trt, progress, cancelled)
    profiles = [_profile(builder, config, network, sizes, onnx) for sizes in ranges]
    _target(kit, config, architectures)
    if kit.timing_cache:
        _attach_cache(config, cache)
    memory = builder.build_serialized_network(network, config)
    monitor.close()
    if memory is None:
        raise EngineError("cancelled" if cancelled.is_set() else f"{onnx}: {kit.module.__name__} cannot build it: {logger.last}")
    after = bytes(config.get_timing_cache().serialize()) if kit.timing_cache else b""
    tensors = ((network.num_inputs, network.get_input), (network.num_outputs, network.get_output))
    inputs, outputs = ({get(i).name: _triton_type(get(i).dtype) for i in range(count)} for count, get in tensors)
    return Built(memoryview(memory), inputs, outputs, profiles, after)


def _parse(trt: Any, network: Any, logger: Any, onnx: Path) -> Any:
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(onnx)) and network.num_outputs:
        return parser
    if not parser.num_errors:
        raise EngineError(f"{onnx}: holds no ONNX graph")
    error = parser.get_error(0)
    where = f"node {error.node_name() or error.node()} ({error.node_operator()}): " if error.node_operator() else ""
    raise EngineError(f"{onnx}: {where}{_line(error.desc())}")


def _profile(builder: Any, config: Any, network: Any, sizes: Mapping[str, Range], onnx: Path) -> dict[str, list[list[int]]]:
    """Add one optimisation profile; returns its (min, opt, max) shapes by input."""
    profile, shapes = builder.create_optimization_profile(), {}
    for tensor in map(network.get_input, range(network.num_inputs)):
        axes = [_axis(tensor, index, sizes, onnx) for index in range(len(tensor.shape))]
        shapes[tensor.name] = [list(shape) for shape in zip(*axes, strict=True)]
        profile.set_shape(tensor.name, *shapes[tensor.name])
    config.add_optimization_profile(profile)
    return shapes


def _axis(tensor: Any, index: int, sizes: Mapping[str, Range], onnx: Path) -> Range:
    size, name = tensor.shape[index], tensor.get_dimension_name(index)
    if size >= 0:
        return (size, size, size)
    if name not in sizes:
        raise EngineError(
            f"{onnx}: {tensor.name} has a dynamic axis '{name}', expected one of {', '.join(sizes)}; give it a range by --axis"
        )
    return sizes[name]


def _target(kit: Toolkit, config: Any, architectures: Sequence[str]) -> None:
    known = kit.architectures()
    if not known:
        return
    config.num_compute_capabilities = len(architectures)
    for index, name in enumerate(architectures):
        config.set_compute_capability(known[name], index)


def _attach_cache(config: Any, content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            fits = config.set_timing_cache(config.create_timing_cache(content), False)
        except (TypeError, RuntimeError):  # damaged
            fits = False
        if not fits:
            config.set_timing_cache(config.create_timing_cache(b""), False)


def _triton_type(dtype: Any) -> str:
    return _TRITON_TYPES.get(dtype.name, dtype.name)


def _line(text: object) -> str:
    """One line of what the library says."""
    return " ".join(str(text).split())[:300]


def _logger(trt: Any) -> Any:
    class Quiet(trt.ILogger):
        """Keeps the last error: the builder itself only returns None."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason was given"

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= _ERROR:
                self.last = _line(message)

    return Quiet()


def _monitor(trt: Any, progress: Progress, cancelled: Event) -> Any:
    class Monitor(trt.IProgressMonitor):
        """The builder's phases as rich's bars; called from the builder's own threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.tasks: dict[str, TaskID] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.tasks[phase_name] = progress.add_task(phase_name, total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.tasks:
                progress.update(self.tasks[phase_name], completed=step + 1)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.tasks:
                progress.remove_task(self.tasks.pop(phase_name))

        def close(self) -> None:
            for phase in list(self.tasks):
                self.phase_finish(phase)

    return Monitor()
