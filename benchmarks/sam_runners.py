"""The techniques of benchmarks/sam.py: torch, ONNX Runtime, TensorRT; one that this machine lacks says so."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from sam_parts import Inputs, Part
from sam_torch import Attend, Runner, Step, flexible, folded
from sam_torch import prepare as prepare_torch
from sightline_export.trt import EngineError, build, toolkit
from torch import Tensor


class Absent(Exception):
    """A technique cannot run on this machine; the text says why."""


@dataclass(frozen=True)
class Place:
    """Where to run, a folder for graphs, the batches to come, and the seconds left of the budget."""

    device: torch.device
    folder: Path
    batches: Sequence[int]
    left: Callable[[], float]

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Technique:
    """One line of the table. `scores`: copies of the largest attention's matrix that it keeps; `graph`: try a CUDA graph of it too."""

    name: str
    dtype: str
    prepare: Callable[[Part, Place], Runner]
    parts: tuple[str, ...] = ("encoder", "decoder")
    scores: int = 2
    graph: bool = True
    library: str = "torch"


BASE = "torch eager"


def techniques(cuda: bool) -> list[Technique]:
    """All there are, the reference first; compiled code is bf16 on a GPU and fp32 elsewhere."""
    compiled, encoder = "bf16" if cuda else "fp32", ("encoder",)
    return [
        Technique(BASE, "fp32", _torch(False, None, False), graph=False),
        Technique("torch SDPA", "bf16", _torch(True, None, False)),
        Technique("torch SDPA, bias folded", "bf16", _torch(True, folded, False), encoder, scores=0),
        Technique("torch.compile", compiled, _torch(cuda, None, True)),
        Technique("torch.compile, bias folded", compiled, _torch(cuda, folded, True), encoder, scores=0),
        Technique("torch.compile, flex attention", compiled, _torch(cuda, flexible, True), encoder, scores=0),
        *(Technique("ONNX Runtime", half, _onnxruntime(half), scores=3, graph=False, library="onnxruntime") for half in ("fp32", "fp16")),
        *(Technique("TensorRT", half, _tensorrt(half), scores=0, library="tensorrt") for half in ("fp16", "bf16")),
    ]


def library(technique: Technique) -> str:
    """Name and version of what runs it."""
    if technique.library == "tensorrt":
        kit = toolkit()
        return f"{kit.module.__name__} {kit.version}"
    return f"{technique.library} {importlib.import_module(technique.library).__version__}"


def _torch(half: bool, attend: Attend | None, compiled: bool) -> Callable[[Part, Place], Runner]:
    def prepare(part: Part, place: Place) -> Runner:
        if attend is flexible and not place.cuda:
            raise Absent("torch generates its kernel for GPUs only")
        torch._dynamo.reset()  # shapes of an earlier technique would count against this one's limit
        return prepare_torch(part, place.device, half, attend, compiled)

    return prepare


# --- graphs -----------------------------------------------------------------------------------------------------------
def graph(part: Part, dtype: str, folder: Path) -> Path:
    """The part as ONNX, exported once; a half one keeps in fp32 what export/precision.py always does."""
    path = folder / f"{part.model}.{part.name}.{dtype}.onnx"
    if path.exists():
        return path
    try:
        import onnx_ir
        from sightline_export import half, onnx_file, precision
    except ImportError as error:
        raise Absent(f"no graph can be exported here: {error}") from None
    if dtype == "fp32":
        inputs = part.inputs(2)
        for name, axes in part.dynamic.items():  # an example of 1 along an axis would fix it
            for axis in axes:
                inputs[name] = torch.cat((inputs[name],) * 3, dim=axis)
        onnx_file.write_onnx(part.module, inputs, part.outputs, path, part.dynamic)
    else:
        model = onnx_ir.load(graph(part, "fp32", folder))
        half.typed(model, dtype, precision.keeper(()))
        onnx_file.save(model, path)
    return path


def _onnxruntime(dtype: str) -> Callable[[Part, Place], Runner]:
    def prepare(part: Part, place: Place) -> Runner:
        try:
            import onnxruntime
        except ImportError as error:
            raise Absent(f"{error}") from None
        provider = "CUDAExecutionProvider" if place.cuda else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise Absent(f"onnxruntime {onnxruntime.__version__} has no {provider} here: install onnxruntime-gpu")
        if dtype != "fp32" and not place.cuda:
            raise Absent(f"a CPU computes {dtype} graphs in fp32; this row needs a GPU")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(graph(part, dtype, place.folder), options, providers=[provider])
        if session.get_providers()[0] != provider:
            raise Absent(f"onnxruntime {onnxruntime.__version__}: {provider} does not load here")
        return _bound(session, part, place.device)

    return prepare


def _bound(session: Any, part: Part, device: torch.device) -> Runner:
    """Inputs and outputs stay on the device; a first run tells the outputs' shapes."""

    def bind(inputs: Inputs) -> Step:
        tensors = {name: tensor.to(device) for name, tensor in inputs.items()}
        if device.type == "cuda":
            torch.cuda.synchronize()  # ONNX Runtime has a stream of its own
        binding = session.io_binding()
        for name, tensor in tensors.items():
            dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
            binding.bind_input(name, device.type, 0, dtype, list(tensor.shape), tensor.data_ptr())
        for name in part.outputs:
            binding.bind_output(name, device.type)
        session.run_with_iobinding(binding)
        for name, value in zip(part.outputs, binding.get_outputs(), strict=True):
            tensors[name] = torch.empty(value.shape(), device=device)
            binding.bind_output(name, device.type, 0, np.float32, value.shape(), tensors[name].data_ptr())

        def step() -> Tensor:
            session.run_with_iobinding(binding)
            return tensors[part.outputs[0]]

        return step

    return bind


# --- TensorRT ---------------------------------------------------------------------------------------------------------
def _tensorrt(dtype: str) -> Callable[[Part, Place], Runner]:
    def prepare(part: Part, place: Place) -> Runner:
        try:
            kit = toolkit()
        except EngineError as error:
            raise Absent(str(error)) from None
        if not place.cuda:
            raise Absent(f"{kit.module.__name__} {kit.version} is here, but no GPU to run a plan on")
        profiles = _profiles(place.batches)
        architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
        if (known := kit.architectures()) and architecture not in known:
            raise Absent(f"{kit.module.__name__} {kit.version} builds for {', '.join(known)}, not for this {architecture}")
        with _until(place.left()) as cancelled:
            ranges = [{"batch": batch, "prompts": (1, 1, 1), "points": (2, 2, 2)} for batch in profiles]
            progress = Progress(console=Console(quiet=True))
            try:
                built = build(kit, graph(part, dtype, place.folder), ranges, (architecture,), progress, cancelled)
            except EngineError as error:
                raise Absent("its build did not end within the budget" if cancelled.is_set() else str(error)) from None
        trt = kit.module
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        return _planned(trt, runtime, runtime.deserialize_cuda_engine(built.plan), part, profiles, place.device)

    return prepare


def _profiles(batches: Sequence[int]) -> list[tuple[int, int, int]]:
    """The smallest batch has a profile of its own, all others one that is tuned for the largest."""
    first, *others = sorted(batches)
    return [(first, first, first), *([(others[0], others[-1], others[-1])] if others else [])]


@contextmanager
def _until(seconds: float) -> Iterator[threading.Event]:
    """An event that is set when the time is over."""
    event = threading.Event()
    timer = threading.Timer(max(seconds, 0), event.set)
    timer.start()
    try:
        yield event
    finally:
        timer.cancel()


def _planned(trt: Any, runtime: Any, engine: Any, part: Part, profiles: list[tuple[int, int, int]], device: torch.device) -> Runner:
    if engine is None:
        raise Absent(f"{trt.__name__} {trt.__version__} built a plan that this GPU cannot load")

    def bind(inputs: Inputs) -> Step:
        batch, stream = len(next(iter(inputs.values()))), torch.cuda.current_stream()
        context = engine.create_execution_context()
        chosen = next(index for index, (low, _, high) in enumerate(profiles) if low <= batch <= high)
        context.set_optimization_profile_async(chosen, stream.cuda_stream)
        tensors = {name: tensor.to(device) for name, tensor in inputs.items()}
        for name, tensor in tensors.items():
            context.set_input_shape(name, tuple(tensor.shape))
        for name in part.outputs:
            tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), device=device)
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data_ptr())
        stream.synchronize()

        def step(held: Any = runtime) -> Tensor:
            if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise RuntimeError(f"{trt.__name__} could not run the plan at batch {batch}")
            return tensors[part.outputs[0]]

        return step

    return bind
