"""The committed configurations are those of the spec, Triton's own parser takes them, and their numbers agree with each other."""

from itertools import combinations
from pathlib import Path

import pytest
from google.protobuf import text_format
from sightline_ensemble import configs
from sightline_ensemble.contract import ENGINES_WITH_CLOCK, IN_FLIGHT_LIMIT, MODELS
from sightline_ensemble.machines import CPU, MACHINES, Machine
from sightline_ensemble.wiring import ENSEMBLES
from tritonclient.grpc import model_config_pb2

REPOSITORY = Path(__file__).parents[2] / "model_repository"
ENGINES = [model for model in MODELS.values() if model.engine]
ON_GPU = [machine for machine in MACHINES.values() if machine.gpu]


def loaded(name: str, machine: Machine) -> model_config_pb2.ModelConfig:
    """The configuration that Triton takes with `--model-config-name`, through the real message type: a wrong field raises."""
    variant = REPOSITORY / name / "configs" / f"{machine.name}.pbtxt"
    path = variant if machine.name and variant.exists() else REPOSITORY / name / "config.pbtxt"
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def shape(model, profile, tensor, largest=True):
    return model.shapes(profile)[tensor][2 if largest else 0]


def test_committed_files_equal_the_spec():
    assert configs.differences(REPOSITORY) == []


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda m: m.name or "default")
@pytest.mark.parametrize("name", [*MODELS, *ENSEMBLES])
def test_every_configuration_parses_and_has_the_tensors_of_the_spec(name, machine):
    found, ensemble = loaded(name, machine), name in ENSEMBLES
    spec = ENSEMBLES[name] if ensemble else MODELS[name]
    real = spec.real_dims if not ensemble and spec.engine and machine.gpu else {}
    kept = [t for t in spec.inputs if not (ensemble and machine.gpu and t.name in {f"{e}_clock" for e in ENGINES_WITH_CLOCK})]

    def dims(t):
        return [d if isinstance(d, int) else -1 for d in real.get(t.name, t.dims)]

    assert found.name == name and not text_format.MessageToString(found).count("TYPE_INVALID")
    assert [(t.name, t.data_type, list(t.dims), t.optional) for t in found.input] == [
        (t.name, model_config_pb2.DataType.Value(f"TYPE_{t.dtype}"), dims(t), t.optional) for t in kept
    ]
    outputs = {t.name: (t.data_type, list(t.dims)) for t in found.output if not t.name.endswith("_clock")}
    assert outputs == {
        t.name: (model_config_pb2.DataType.Value(f"TYPE_{t.dtype}"), dims(t)) for t in spec.outputs if not t.name.endswith("_clock")
    }


def test_only_the_cpu_has_engine_clocks_and_no_gpu():
    for name in (*MODELS, *ENSEMBLES):
        for machine in MACHINES.values():
            text = text_format.MessageToString(loaded(name, machine))
            if not machine.gpu:
                assert "KIND_GPU" not in text and "tensorrt" not in text
            elif name in ENSEMBLES:
                assert not any(f"{engine}_clock" in text for engine in ENGINES_WITH_CLOCK), name


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda m: m.name or "default")
def test_a_bounded_queue_is_only_on_steps_in_a_row(machine):
    """A rejection in one of two parallel steps hangs the ensemble for ever in Triton 24.10 to 26.01."""
    for name in ENSEMBLES:
        steps = loaded(name, machine).ensemble_scheduling.step
        feeds = [{i for i, s in enumerate(steps) if set(s.input_map.values()) & set(step.output_map.values())} for step in steps]
        for _ in steps:  # transitive
            feeds = [later.union(*(feeds[i] for i in later)) for later in feeds]
        parallel = [(a, b) for a, b in combinations(range(len(steps)), 2) if b not in feeds[a] and a not in feeds[b]]
        for pair in parallel:
            for step in (steps[i].model_name for i in pair):
                assert step in MODELS and not loaded(step, machine).dynamic_batching.default_queue_policy.max_queue_size, step


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda m: m.name or "default")
@pytest.mark.parametrize("model", ENGINES, ids=lambda m: m.name)
def test_batching_and_queue_are_bounded(model, machine):
    found = loaded(model.name, machine)
    batching = found.dynamic_batching
    assert IN_FLIGHT_LIMIT < batching.default_queue_policy.max_queue_size <= 4 * IN_FLIGHT_LIMIT  # `decode` refuses first
    # A request that leaves a queue half-way would keep its row of the ledger: deadlines are the first and last steps' business.
    assert not batching.default_queue_policy.default_timeout_microseconds and not batching.default_queue_policy.allow_timeout_override
    assert batching.max_queue_delay_microseconds <= 2000
    assert all(0 < size <= found.max_batch_size for size in batching.preferred_batch_size)
    assert len(found.instance_group) == 1 and found.instance_group[0].count == 1


@pytest.mark.parametrize("machine", ON_GPU, ids=lambda m: m.name or "default")
@pytest.mark.parametrize("model", ENGINES, ids=lambda m: m.name)
def test_plans_profiles_warm_up_and_graphs_agree(model, machine):
    found = loaded(model.name, machine)
    assert found.platform == "tensorrt_plan" and found.default_model_filename == f"{configs.PRODUCTION_PROFILE}/model.plan"
    used = [int(name) for name in found.instance_group[0].profile]
    tuned = {model.ranges[i]["batch"][1] for i in used}
    assert set(found.dynamic_batching.preferred_batch_size) <= tuned  # a batch that is not waited for must be a fast one
    kinds = {tuple((k, v) for k, v in model.ranges[i].items() if k != "batch") for i in used}
    for kind in kinds:  # every batch that Triton may form fits a profile, whatever the other axes are
        fitting = [model.ranges[i]["batch"] for i in used if kind == tuple((k, v) for k, v in model.ranges[i].items() if k != "batch")]
        assert all(any(low <= n <= high for low, _, high in fitting) for n in range(1, found.max_batch_size + 1))
        assert max(high for _, _, high in fitting) == found.max_batch_size

    assert len(found.model_warmup) == len(used)
    for sample, profile in zip(found.model_warmup, used, strict=True):
        assert {name: (sample.batch_size, *value.dims) for name, value in sample.inputs.items()} == {
            t.name: shape(model, profile, t.name) for t in model.inputs
        }
        for t in model.inputs:
            assert sample.inputs[t.name].data_type == model_config_pb2.DataType.Value(f"TYPE_{t.dtype}")
            assert sample.inputs[t.name].zero_data  # random bytes are NaN as floats

    assert found.optimization.cuda.graphs == bool(machine.batching[model.name].graphs)
    for spec in found.optimization.cuda.graph_spec:
        inputs = {name: (spec.batch_size, *value.dim) for name, value in spec.input.items()}
        assert set(inputs) == {t.name for t in model.inputs}
        assert any(
            all(all(map(lambda low, d, high: low <= d <= high, shape(model, i, n, False), inputs[n], shape(model, i, n))) for n in inputs)
            for i in used
        )


def test_the_decoders_box_is_the_captured_shape():
    for machine in ON_GPU:
        for spec in loaded("sam_decoder", machine).optimization.cuda.graph_spec:
            assert list(spec.input["point_coords"].dim) == [1, 2, 2] and list(spec.input["point_labels"].dim) == [1, 2]


def test_python_steps_of_machines():
    assert loaded("decode", MACHINES["gpu80"]).instance_group[0].count > loaded("decode", MACHINES[""]).instance_group[0].count
    assert all(loaded(name, CPU).instance_group[0].count == 1 for name in MODELS)
    assert all(loaded(name, m).instance_group[0].count == 1 for m in ON_GPU for name in ("lisa", "lisa_engine", "products"))


def test_write_and_compare(tmp_path, capsys):
    assert configs.main(["--write", str(tmp_path)]) == 0 and configs.main([str(tmp_path)]) == 0
    (tmp_path / "report" / "config.pbtxt").write_text("")
    (tmp_path / "lisa" / "configs" / "old.pbtxt").write_text("")
    assert configs.main([str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "report/config.pbtxt" in said and "lisa/configs/old.pbtxt" in said
    assert configs.main(["--write", "--profile", "mine", str(tmp_path)]) == 0
    assert not (tmp_path / "lisa" / "configs" / "old.pbtxt").exists()
    assert '"mine/model.plan"' in (tmp_path / "sam_encoder" / "configs" / "gpu16.pbtxt").read_text()
