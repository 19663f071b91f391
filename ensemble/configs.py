"""Writes every `config.pbtxt` from the spec in `contract.py`: they are never edited by hand.

`<model>/config.pbtxt` is production (TensorRT plans, GPU), `<model>/configs/cpu.pbtxt` the same graph on a CPU, chosen by
`--model-config-name=cpu`. Only the second kind has engine steps in Python, hence their clocks; in production those
outputs are dropped together with everything that reads them.

    python -m sightline_ensemble.configs --write model_repository [--profile NAME]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from .contract import ENGINES_WITH_CLOCK, MODELS, Model, Tensor
from .wiring import ENSEMBLES, Ensemble, Step

PRODUCTION_PROFILE = "real"  # the folder below <model>/1/ whose model.plan production loads
_PYTHON_INSTANCES = {"decode": 2, "cutout": 2, "expert": 2, "report": 2}  # production; the CPU profile has 2 cores in all


def config(name: str, cpu: bool, profile: str = PRODUCTION_PROFILE) -> str:
    """The text of one model's configuration."""
    text = _ensemble(ENSEMBLES[name], cpu) if name in ENSEMBLES else _model(MODELS[name], cpu, profile)
    return f'# Written by ensemble/configs.py from ensemble/contract.py: change those.\nname: "{name}"\n{text}'


def files(profile: str = PRODUCTION_PROFILE) -> dict[str, str]:
    """Path below the repository -> text, for every model and ensemble."""
    found = {}
    for name in (*MODELS, *ENSEMBLES):
        found[f"{name}/config.pbtxt"] = config(name, cpu=False, profile=profile)
        found[f"{name}/configs/cpu.pbtxt"] = config(name, cpu=True)
        if name in ENSEMBLES:
            found[f"{name}/1/.gitkeep"] = ""  # Triton wants a version folder of an ensemble too
    return found


def write(repository: Path, profile: str = PRODUCTION_PROFILE) -> None:
    for name, text in files(profile).items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def differences(repository: Path, profile: str = PRODUCTION_PROFILE) -> list[str]:
    """The paths that are missing or differ from the spec."""
    return [name for name, text in files(profile).items() if not (repository / name).is_file() or (repository / name).read_text() != text]


# --- models -----------------------------------------------------------------------------------------------------------
def _model(model: Model, cpu: bool, profile: str) -> str:
    plan = model.engine and not cpu
    outputs = model.outputs
    if model.engine and cpu:
        outputs = (*outputs, Tensor(f"{model.name}_clock", "INT64", (2,)))
    parts = [
        f'platform: "tensorrt_plan"\ndefault_model_filename: "{profile}/model.plan"\n' if plan else 'backend: "python"\n',
        f"max_batch_size: {model.max_batch_size}\n",
        _tensors("input", model.inputs, model.real_dims if plan else {}),
        _tensors("output", outputs, model.real_dims if plan else {}),
        _scheduling(model),
        _instances(model, cpu),
    ]
    if model.decoupled:
        parts.append("model_transaction_policy { decoupled: true }\n")
    if model.name == "inspect_stream" and cpu:  # it must not ask `prepare` for clocks that production lacks
        parts.append('parameters { key: "engine_clocks" value { string_value: "yes" } }\n')
    if model.gpu and not cpu:
        parts.append('parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }\n')
    return "".join(parts)


def _tensors(kind: str, tensors: Iterable[Tensor], real: Mapping[str, tuple[int | str, ...]]) -> str:
    rows = (
        f'  {{ name: "{t.name}" data_type: TYPE_{t.dtype} dims: [ {_dims(real.get(t.name, t.dims))} ]'
        f"{' optional: true' if t.optional and kind == 'input' else ''} }}"
        for t in tensors
    )
    return f"{kind} [\n" + ",\n".join(rows) + "\n]\n"


def _dims(dims: tuple[int | str, ...]) -> str:
    return ", ".join("-1" if isinstance(d, str) else str(d) for d in dims)


def _scheduling(model: Model) -> str:
    if model.max_queue_size:
        return f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {model.max_queue_size} }} }}\n"
    return "dynamic_batching { }\n" if model.max_batch_size else ""


def _instances(model: Model, cpu: bool) -> str:
    on_gpu = (model.engine or model.gpu) and not cpu
    count = 1 if cpu else _PYTHON_INSTANCES.get(model.name, 1)
    return f"instance_group [ {{ count: {count} kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }} ]\n"


# --- ensembles --------------------------------------------------------------------------------------------------------
def _dropped(name: str, cpu: bool) -> bool:
    """A clock of a step that has none in production."""
    return not cpu and name in {f"{engine}_clock" for engine in ENGINES_WITH_CLOCK}


def _ensemble(ensemble: Ensemble, cpu: bool) -> str:
    inputs = [t for t in ensemble.inputs if not _dropped(t.name, cpu)]
    outputs = [t for t in ensemble.outputs if not _dropped(t.name, cpu)]
    known = {t.name for t in inputs} | {tensor for s in ensemble.steps for name, tensor in s.outputs.items() if not _dropped(name, cpu)}
    used = {t.name for t in outputs} | {tensor for s in ensemble.steps for tensor in s.inputs.values()}
    steps = ",\n".join(_step(step, known, used, cpu) for step in ensemble.steps)
    return (
        'platform: "ensemble"\nmax_batch_size: 0\n'
        + _tensors("input", inputs, {})
        + _tensors("output", outputs, {})
        + f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n"
    )


def _step(step: Step, known: set[str], used: set[str], cpu: bool) -> str:
    """`known`: tensors that something produces; `used`: that something reads (Triton refuses a tensor that nobody does)."""
    optional = {t.name for t in (ENSEMBLES[step.model] if step.model in ENSEMBLES else MODELS[step.model]).inputs if t.optional}
    missing = {name for name, tensor in step.inputs.items() if tensor not in known}
    if missing - optional:
        raise ValueError(f"{step.model}: nothing produces {sorted(missing - optional)}")
    inputs = {name: tensor for name, tensor in step.inputs.items() if tensor in known}
    outputs = {name: tensor for name, tensor in step.outputs.items() if tensor in used and not _dropped(name, cpu)}
    rows = [f'      input_map {{ key: "{name}" value: "{tensor}" }}' for name, tensor in inputs.items()]
    rows += [f'      output_map {{ key: "{name}" value: "{tensor}" }}' for name, tensor in outputs.items()]
    return f'    {{\n      model_name: "{step.model}"\n      model_version: -1\n' + "\n".join(rows) + "\n    }"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sightline_ensemble.configs", description="Write or compare the configurations.")
    parser.add_argument("--write", action="store_true", help="write them; without it only compare")
    parser.add_argument("--profile", default=PRODUCTION_PROFILE, help="the artefacts production loads (default: %(default)s)")
    parser.add_argument("repository", type=Path)
    options = parser.parse_args(arguments)
    if options.write:
        write(options.repository, options.profile)
        return 0
    wrong = differences(options.repository, options.profile)
    for name in wrong:
        print(f"differs from the spec: {name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
