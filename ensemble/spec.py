"""What the spec is written in: a tensor, a step, and small ways to vary a tensor."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tensor:
    """A named input or output. `dims` are Triton's, without the batch dimension where the model batches."""

    name: str
    dtype: str  # Triton's, without TYPE_: STRING, UINT8, INT32, INT64, FP32
    dims: tuple[int, ...]
    optional: bool = False


Range = tuple[int, int, int]  # smallest, the one to tune for, largest


@dataclass(frozen=True)
class Model:
    """One step. `engine` steps are TensorRT plans in production and Python on ONNX Runtime under configs/cpu.pbtxt."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int = 0
    engine: bool = False
    decoupled: bool = False
    gpu: bool = False  # its Python code wants the GPU in production
    max_queue_size: int = 0  # 0: unbounded
    cached: bool = False  # a later question about the same picture need not compute it again (Triton caches what lies in host memory)
    real_dims: dict[str, tuple[int | str, ...]] = field(default_factory=dict)  # of the released checkpoints' engine; a word: dynamic
    ranges: tuple[dict[str, Range], ...] = ()  # the plan's optimisation profiles, in this order: "batch" and each word of `real_dims`

    def shapes(self, profile: int) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Each input's smallest, tuned and largest shape, batch first, in one of the plan's optimisation profiles."""
        ranges = self.ranges[profile]
        return {
            t.name: tuple(tuple(ranges[d][i] if isinstance(d, str) else d for d in ("batch", *self.real_dims[t.name])) for i in range(3))
            for t in self.inputs
        }

    def dynamic_axes(self, name: str) -> dict[int, str]:
        """The dynamic axes of an input or output, batch included: axis -> word."""
        return {axis: d for axis, d in enumerate(("batch", *self.real_dims[name])) if isinstance(d, str)}


def optional(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, tensor.dtype, tensor.dims, optional=True)


def clock(step: str) -> Tensor:
    """[1, 2] start and end of a Python step, nanoseconds of CLOCK_MONOTONIC (one clock for all processes of a host)."""
    return Tensor(f"{step}_clock", "INT64", (1, 2))


def batched(tensor: Tensor, name: str | None = None, dims: tuple[int, ...] | None = None) -> Tensor:
    """The same tensor as a batching model declares it: without its leading 1."""
    return Tensor(name or tensor.name, tensor.dtype, dims or tensor.dims[1:], tensor.optional)
