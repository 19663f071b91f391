"""What each class of machine is configured with: the numbers behind the variants of `config.pbtxt`.

None of them was measured on a GPU: they are reckoned from the costs in docs/configurations.md, which says how to tune them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from .contract import IN_FLIGHT_LIMIT, MODELS, Model


@dataclass(frozen=True)
class Batching:
    """How one engine step is batched.

    Args:
        largest: `max_batch_size`; the plan's profiles up to it are loaded.
        delay_us: how long a request may wait for company, where the GPU is idle.
        preferred: batches that are sent without waiting; each must be the one a profile is tuned for.
        graphs: batches captured as CUDA graphs, each with the first profile that takes it.
    """

    largest: int
    delay_us: int = 0
    preferred: tuple[int, ...] = ()
    graphs: tuple[int, ...] = ()

    def profiles(self, model: Model) -> list[int]:
        """Those of the plan's optimisation profiles that never see a larger batch."""
        return [i for i, sizes in enumerate(model.ranges) if sizes["batch"][2] <= self.largest]


@dataclass(frozen=True)
class Machine:
    """A class of machines, hence of `config.pbtxt` variants.

    Args:
        name: of `configs/<name>.pbtxt`; empty: `config.pbtxt` itself.
        memory_gb: of the smallest GPU meant, in GB of 10^9 bytes; 0: no GPU, engines run in Python on ONNX Runtime.
        batching: by engine step.
        instances: processes of a Python step, 1 where it is not named.
        queue: `max_queue_size` of the engine steps.
    """

    name: str
    memory_gb: int
    batching: Mapping[str, Batching]
    instances: Mapping[str, int] = field(default_factory=dict)
    queue: int = 2 * IN_FLIGHT_LIMIT  # never reached by what `decode` admits, nor with the few enrolments beside it

    @property
    def gpu(self) -> bool:
        return self.memory_gb > 0


def _python_steps(count: int) -> dict[str, int]:
    """The steps that decode, resize and write pictures; the others wait for the GPU or keep state of their own."""
    return dict.fromkeys(("decode", "cutout", "expert", "report"), count)


CPU = Machine("cpu", 0, {name: Batching(model.max_batch_size) for name, model in MODELS.items() if model.engine})
GPU80 = Machine(
    "gpu80",
    80,
    {
        "sam_encoder": Batching(16, delay_us=2000, preferred=(8, 16), graphs=(1, 2)),
        "sam_decoder": Batching(8, delay_us=300, preferred=(8,), graphs=(1, 2, 8)),
        "vision_encoder": Batching(16, delay_us=500, preferred=(8, 16), graphs=(1, 2, 8)),
        "lisa_decoder": Batching(8, delay_us=300, preferred=(8,), graphs=(1, 2, 8)),
    },
    _python_steps(4),
)
DEFAULT = Machine(
    "",
    40,
    {
        "sam_encoder": Batching(8, delay_us=2000, preferred=(8,), graphs=(1, 2)),
        "sam_decoder": Batching(8, delay_us=300, preferred=(8,), graphs=(1, 2, 8)),
        "vision_encoder": Batching(8, delay_us=500, preferred=(8,), graphs=(1, 2, 8)),
        "lisa_decoder": Batching(8, delay_us=300, preferred=(8,), graphs=(1, 2, 8)),
    },
    _python_steps(2),
)
GPU16 = Machine(
    "gpu16",
    16,
    {
        "sam_encoder": Batching(2, delay_us=1000, preferred=(2,)),
        "sam_decoder": Batching(2, delay_us=300, preferred=(2,), graphs=(1, 2)),
        "vision_encoder": Batching(8, delay_us=500, preferred=(8,), graphs=(1, 2, 8)),
        "lisa_decoder": Batching(2, delay_us=300, preferred=(2,), graphs=(1, 2)),
    },
    _python_steps(2),
)
MACHINES = {machine.name: machine for machine in (DEFAULT, CPU, GPU80, GPU16)}


def for_memory(mib: int) -> str:
    """The variant for a GPU of so many MiB, as nvidia-smi reports it.

    An 80 GB card reports 81,559 (H100) or 81,920 (A100), a 40 GB one 40,960, a 24 GB one 23,034 to 24,564.
    """
    fitting = [machine for machine in (GPU80, DEFAULT) if mib * 2**20 >= machine.memory_gb * 10**9]
    return fitting[0].name if fitting else GPU16.name


def gpu_memory_mib() -> list[int]:
    """Of each GPU that nvidia-smi lists; empty where there is no GPU or no driver."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [int(line) for line in text.split() if line.isdigit()]
