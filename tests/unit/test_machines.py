"""The classes of machines fit the GPUs they are meant for, by reckoning, and the right one is chosen."""

from pathlib import Path

import pytest
from sightline_ensemble import machines
from sightline_ensemble.contract import MODELS
from sightline_ensemble.machines import DEFAULT, GPU16, GPU80, MACHINES, Machine
from sightline_ensemble.serve import launcher
from sightline_ensemble.serve.launcher import Triton

CONTAINER, WHEEL = Triton(Path("tritonserver"), None), Triton(Path("tritonserver"), Path("wheel"))

# docs/configurations.md says where each number comes from. GB of 10^9 bytes; nothing here was measured on a GPU.
WEIGHTS = 1.27 + 0.61 + 2 * 0.02  # SAM ViT-H and CLIP ViT-L/14 in half precision, two mask decoders
LISA = 3.96  # 7 B parameters in int4, with its half-precision head
KV_TOKEN = 512 * 1024 / 1e9
SEQUENCE = 370 * KV_TOKEN  # 256 picture tokens, the question, 48 tokens of answer
CONTEXTS = 2 * 0.5  # CUDA itself, in tritonserver and in LISA's process
POOL = launcher.GPU_POOL_BYTES / 1e9
ENCODER_PICTURE = 2 * 16 * 4096**2 * 2 / 1e9  # a global block's position bias and its scores, 16 heads, half precision
DECODER_MASK = (2 * 32 * 256**2 + 2 * 64 * 128**2 + 5 * 256 * 64**2) * 4 / 1e9  # upscaling in and out, picture tokens; fp32
DECODER_TOKEN = 2 * 8 * 4096 * 4 / 1e9  # scores of 8 heads against the picture, before and after softmax; fp32
VISION_PICTURE = 0.02


def activations(model: str, machine: Machine) -> float:
    """GB that the contexts of one engine hold: each profile has its own memory, for its largest shape."""
    spec, total = MODELS[model], 0.0
    for index in machine.batching[model].profiles(spec):
        sizes = {axis: largest for axis, (_, _, largest) in spec.ranges[index].items()}
        if model == "sam_encoder":
            total += sizes["batch"] * ENCODER_PICTURE
        elif model == "vision_encoder":
            total += sizes["batch"] * VISION_PICTURE
        else:
            masks = sizes["batch"] * sizes.get("prompts", 4)
            total += masks * (DECODER_MASK + (5 + sizes.get("points", 1)) * DECODER_TOKEN)
    return total


def reckoned(machine: Machine) -> float:
    return WEIGHTS + LISA + CONTEXTS + POOL + sum(activations(model, machine) for model in machine.batching)


@pytest.mark.parametrize(("machine", "sequences"), [(GPU16, 8), (DEFAULT, 32), (GPU80, 64)], ids=lambda v: getattr(v, "name", None))
def test_the_engines_leave_room_for_conversations(machine, sequences):
    assert reckoned(machine) + sequences * SEQUENCE < 0.95 * machine.memory_gb, f"{reckoned(machine):.1f} GB"


def test_the_documentation_states_the_reckoned_sums():
    text = (Path(__file__).parents[2] / "docs" / "configurations.md").read_text()
    for machine in (GPU16, DEFAULT, GPU80):
        assert f"{reckoned(machine):.1f} GB" in text, machine.name
    for model in GPU80.batching:
        largest = " | ".join(str(machine.batching[model].largest) for machine in (GPU16, DEFAULT, GPU80))
        assert f"| `{model}` | {largest} |" in text


def test_every_engine_is_configured_on_every_machine():
    engines = {model.name for model in MODELS.values() if model.engine}
    assert all(set(machine.batching) == engines for machine in MACHINES.values())
    assert all(set(machine.instances) <= set(MODELS) - engines for machine in MACHINES.values())


@pytest.mark.parametrize(
    ("mib", "name"),
    [(15360, "gpu16"), (23034, "gpu16"), (24564, "gpu16"), (32607, "gpu16"), (40960, ""), (46068, ""), (81559, "gpu80"), (143771, "gpu80")],
)  # T4, L4, RTX 4090, RTX 5090, A100-40GB, L40S, H100, H200
def test_variant_by_memory(mib, name):
    assert machines.for_memory(mib) == name


@pytest.mark.parametrize(
    ("said", "triton", "asked", "expected"),
    [
        ("81559\n23034\n", CONTAINER, None, "gpu16"),  # one configuration serves all of them
        ("81559\n", CONTAINER, None, "gpu80"),
        ("40960\n", CONTAINER, None, ""),
        ("81559\n", CONTAINER, "cpu", "cpu"),
        ("81559\n", CONTAINER, "", ""),
        ("81559\n", WHEEL, None, "cpu"),
        ("[N/A]\n", CONTAINER, None, "cpu"),
        (None, CONTAINER, None, "cpu"),
    ],
)
def test_which_config(said, triton, asked, expected, tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n" if said is None else f"#!/bin/sh\n[ \"$1\" = --query-gpu=memory.total ] && printf '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert launcher.which_config(triton, asked) == expected


def test_no_nvidia_smi_means_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machines.gpu_memory_mib() == []
