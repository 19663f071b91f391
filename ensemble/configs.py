"""Writes every `config.pbtxt` from the spec in `contract.py` and the machines in `machines.py`: they are never edited by hand.

`<model>/config.pbtxt` is production (TensorRT plans, GPU); `<model>/configs/<name>.pbtxt` the same step on another class of
machine, chosen by `--model-config-name=<name>`, where it differs (Triton takes config.pbtxt where there is none). Only `cpu` has
engine steps in Python, hence their clocks; in production those outputs are dropped together with everything that reads them.

    python -m sightline_ensemble.configs --write model_repository [--profile NAME]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from .contract import ENGINES_WITH_CLOCK, MODELS, Model, Tensor
from .machines import CPU, DEFAULT, GPU16, GPU80, Batching, Machine
from .wiring import ENSEMBLES, Ensemble, Step

PRODUCTION_PROFILE = "real"  # the folder below <model>/1/ whose model.plan production loads


def config(name: str, machine: Machine = DEFAULT, profile: str = PRODUCTION_PROFILE) -> str:
    """The text of one model's configuration on a class of machines."""
    text = _ensemble(ENSEMBLES[name], machine) if name in ENSEMBLES else _model(MODELS[name], machine, profile)
    return f'# Written by ensemble/configs.py from ensemble/contract.py and machines.py: change those.\nname: "{name}"\n{text}'


def files(profile: str = PRODUCTION_PROFILE) -> dict[str, str]:
    """Path below the repository -> text, for every model and ensemble."""
    found = {}
    for name in (*MODELS, *ENSEMBLES):
        found[f"{name}/config.pbtxt"] = production = config(name, DEFAULT, profile)
        found[f"{name}/configs/cpu.pbtxt"] = config(name, CPU)
        for machine in (GPU80, GPU16):
            if (text := config(name, machine, profile)) != production:
                found[f"{name}/configs/{machine.name}.pbtxt"] = text
        if name in ENSEMBLES:
            found[f"{name}/1/.gitkeep"] = ""  # Triton wants a version folder of an ensemble too
    return found


def write(repository: Path, profile: str = PRODUCTION_PROFILE) -> None:
    """Write every file, and remove variants that the spec no longer has."""
    for name, text in files(profile).items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in _strangers(repository, profile):
        (repository / name).unlink()


def differences(repository: Path, profile: str = PRODUCTION_PROFILE) -> list[str]:
    """The paths that are missing, differ from the spec, or are variants that it does not have."""
    wrong = [name for name, text in files(profile).items() if not (repository / name).is_file() or (repository / name).read_text() != text]
    return wrong + _strangers(repository, profile)


def _strangers(repository: Path, profile: str) -> list[str]:
    present = {str(path.relative_to(repository)) for name in (*MODELS, *ENSEMBLES) for path in (repository / name / "configs").glob("*")}
    return sorted(present - files(profile).keys())


# --- models -----------------------------------------------------------------------------------------------------------
def _model(model: Model, machine: Machine, profile: str) -> str:
    plan = model.engine and machine.gpu
    outputs = model.outputs
    if model.engine and not plan:
        outputs = (*outputs, Tensor(f"{model.name}_clock", "INT64", (2,)))
    parts = [
        f'platform: "tensorrt_plan"\ndefault_model_filename: "{profile}/model.plan"\n' if plan else 'backend: "python"\n',
        f"max_batch_size: {machine.batching[model.name].largest if model.engine else model.max_batch_size}\n",
        _tensors("input", model.inputs, model.real_dims if plan else {}),
        _tensors("output", outputs, model.real_dims if plan else {}),
        _engine(model, machine) if model.engine else _python(model, machine),
    ]
    if model.decoupled:
        parts.append("model_transaction_policy { decoupled: true }\n")
    if model.name == "inspect_stream" and not machine.gpu:  # it must not ask `prepare` for clocks that production lacks
        parts.append('parameters { key: "engine_clocks" value { string_value: "yes" } }\n')
    if model.gpu and machine.gpu:
        parts.append('parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }\n')
    return "".join(parts)


def _tensors(kind: str, tensors: Iterable[Tensor], real: Mapping[str, tuple[int | str, ...]]) -> str:
    rows = (
        f'  {{ name: "{t.name}" data_type: TYPE_{t.dtype} dims: {_dims(real.get(t.name, t.dims))}'
        f"{' optional: true' if t.optional and kind == 'input' else ''} }}"
        for t in tensors
    )
    return f"{kind} [\n" + ",\n".join(rows) + "\n]\n"


def _dims(dims: Iterable[int | str]) -> str:
    """The words of dynamic axes become -1."""
    return f"[ {', '.join('-1' if isinstance(d, str) else str(d) for d in dims)} ]"


def _python(model: Model, machine: Machine) -> str:
    queue = f"dynamic_batching {{ default_queue_policy {{ max_queue_size: {model.max_queue_size} }} }}\n" if model.max_queue_size else ""
    kind = "KIND_GPU" if model.gpu and machine.gpu else "KIND_CPU"
    return f"{queue}instance_group [ {{ count: {machine.instances.get(model.name, 1)} kind: {kind} }} ]\n"


# --- engine steps -----------------------------------------------------------------------------------------------------
def _engine(model: Model, machine: Machine) -> str:
    batching = machine.batching[model.name]
    lines = [f"  preferred_batch_size: {_dims(batching.preferred)}\n" if batching.preferred else ""]
    lines += [f"  max_queue_delay_microseconds: {batching.delay_us}\n" if batching.delay_us else ""]
    lines += [f"  default_queue_policy {{ max_queue_size: {machine.queue} }}\n"]
    scheduling = f"dynamic_batching {{\n{''.join(lines)}}}\n"
    if not machine.gpu:
        scheduling += "response_cache { enable: true }\n" if model.cached else ""
        return scheduling + "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    profiles = ", ".join(f'"{index}"' for index in batching.profiles(model))
    # A context's memory is then its own profile's; by default each would hold that of the plan's largest.
    memory = 'parameters { key: "execution_context_allocation_strategy" value { string_value: "ON_PROFILE_CHANGE" } }\n'
    group = f"instance_group [ {{ count: 1 kind: KIND_GPU profile: [ {profiles} ] }} ]\n"
    return scheduling + group + memory + _graphs(model, batching) + "".join(_warmup(model, index) for index in batching.profiles(model))


def _graphs(model: Model, batching: Batching) -> str:
    """A CUDA graph for each batch named, in the first profile that takes it; other shapes run as ever."""
    specs = []
    for batch in batching.graphs:
        profile = next(i for i in batching.profiles(model) if model.ranges[i]["batch"][0] <= batch <= model.ranges[i]["batch"][2])
        inputs = (f'input {{ key: "{name}" value {{ dim: {_dims(s[2][1:])} }} }}' for name, s in model.shapes(profile).items())
        specs.append(f"    graph_spec {{ batch_size: {batch} {' '.join(inputs)} }}\n")
    return f"optimization {{\n  cuda {{\n    graphs: true\n{''.join(specs)}  }}\n}}\n" if specs else ""


def _warmup(model: Model, profile: int) -> str:
    """The largest shape of a profile, before the step counts as ready. Zeros: random bytes would be NaN as floats."""
    types = {t.name: t.dtype for t in model.inputs}
    rows = "".join(
        f'  inputs {{ key: "{name}" value {{ data_type: TYPE_{types[name]} dims: {_dims(largest[1:])} zero_data: true }} }}\n'
        for name, (_, _, largest) in model.shapes(profile).items()
    )
    return f'model_warmup {{\n  name: "profile {profile}"\n  batch_size: {model.ranges[profile]["batch"][2]}\n{rows}}}\n'


# --- ensembles --------------------------------------------------------------------------------------------------------
def _dropped(name: str, machine: Machine) -> bool:
    """A clock of a step that has none in production."""
    return machine.gpu and name in {f"{engine}_clock" for engine in ENGINES_WITH_CLOCK}


def _ensemble(ensemble: Ensemble, machine: Machine) -> str:
    inputs = [t for t in ensemble.inputs if not _dropped(t.name, machine)]
    outputs = [t for t in ensemble.outputs if not _dropped(t.name, machine)]
    known = {t.name for t in inputs} | {tensor for s in ensemble.steps for name, tensor in s.outputs.items() if not _dropped(name, machine)}
    used = {t.name for t in outputs} | {tensor for s in ensemble.steps for tensor in s.inputs.values()}
    steps = ",\n".join(_step(step, known, used, machine) for step in ensemble.steps)
    return (
        'platform: "ensemble"\nmax_batch_size: 0\n'
        + _tensors("input", inputs, {})
        + _tensors("output", outputs, {})
        + f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n"
    )


def _step(step: Step, known: set[str], used: set[str], machine: Machine) -> str:
    """`known`: tensors that something produces; `used`: that something reads (Triton refuses a tensor that nobody does)."""
    optional = {t.name for t in (ENSEMBLES[step.model] if step.model in ENSEMBLES else MODELS[step.model]).inputs if t.optional}
    missing = {name for name, tensor in step.inputs.items() if tensor not in known}
    if missing - optional:
        raise ValueError(f"{step.model}: nothing produces {sorted(missing - optional)}")
    inputs = {name: tensor for name, tensor in step.inputs.items() if tensor in known}
    outputs = {name: tensor for name, tensor in step.outputs.items() if tensor in used and not _dropped(name, machine)}
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
