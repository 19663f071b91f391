"""Plans: what fits is taken; what was built for something else, is stale or damaged is refused by name, with the remedy."""

import argparse
import json
import os
from dataclasses import asdict, replace

import pytest
from sightline_ensemble import artefacts, configs, plans
from sightline_ensemble.artefacts import ArtefactError
from sightline_ensemble.machines import CPU
from sightline_ensemble.plans import Host, Plan
from sightline_ensemble.serve import cli, launcher

HERE = Host(("sm_90",), "10.14.1")
REBUILD = "`sightline-export engine --repository {} --profile real --model sam_encoder"


def write_plan(folder, **changes):
    """A plan with its JSON in an artefact folder, in use; the graphs of the folder are what it was built from."""
    content = b"serialized engine"
    (folder / "content").write_bytes(content)
    shapes = [[size, 3, 1024, 1024] for size in (1, 4, 8)]
    plan = Plan(
        "sam_encoder", ("sm_90",), "trt", "10.14.1.48", "fp16", {"model.fp16.onnx": artefacts.file_hash(folder / "model.fp16.onnx")},
        artefacts.file_hash(folder / "content"), len(content), {"sam_pixels": "UINT8"}, {"image_embedding": "FP32"},
        [{"sam_pixels": shapes}],
    )  # fmt: skip
    plan = replace(plan, **changes)
    plan = replace(plan, path=folder / plan.name)
    (folder / "content").rename(plan.path)
    described = {key: value for key, value in asdict(plan).items() if key != "path"}
    plan.path.with_suffix(".json").write_text(json.dumps(described))
    link = folder / plans.LINK
    link.unlink(missing_ok=True)
    link.symlink_to(plan.name)
    return plan


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "sam_encoder" / "1" / "real"
    folder.mkdir(parents=True)
    for name in ("model.onnx", "model.fp16.onnx"):
        (folder / name).write_bytes(name.encode())
    write_manifest(tmp_path)
    (tmp_path / "sam_encoder" / "config.pbtxt").write_text(configs.config("sam_encoder"))
    return tmp_path


def write_manifest(repository, files=("model.onnx", "model.fp16.onnx")):
    artefacts.write_manifest(repository / "sam_encoder", "real", files, source={}, precision="fp32")


def folder_of(repository):
    return repository / "sam_encoder" / "1" / "real"


def refusal(repository, host=HERE, **settings):
    with pytest.raises(ArtefactError) as caught:
        plans.check_plan(repository, "sam_encoder", "real", host, **settings)
    text = str(caught.value)
    assert "\n" not in text and REBUILD.format(repository) in text
    return text


def test_a_fitting_plan(repository):
    plan = write_plan(folder_of(repository))
    assert plan.name == f"sam_encoder.sm_90.trt10.14.1.48.fp16.{artefacts.file_hash(folder_of(repository) / 'model.fp16.onnx')[7:19]}.plan"
    for version in ("10.14.1", "10.14.1.48", "10.14.1.48.post1", ""):
        assert plans.check_plan(repository, "sam_encoder", "real", Host(("sm_90",), version), batch=8) == plan


def test_several_architectures(repository):
    plan = write_plan(folder_of(repository), architectures=("sm_80", "sm_90"))
    assert ".sm_80+sm_90." in plan.name
    assert plans.check_plan(repository, "sam_encoder", "real", HERE) == plan
    assert "here is sam_encoder on sm_90+sm_120" in refusal(repository, Host(("sm_90", "sm_120"), "10.14.1"))


@pytest.mark.parametrize(
    "changes, host, here",
    [
        ({}, Host(("sm_80",), "10.14.1"), "sm_80 with TensorRT 10.14.1"),
        ({}, Host(("sm_90",), "10.14.2"), "sm_90 with TensorRT 10.14.2"),
        ({}, Host(("sm_90",), "11.4.0"), "sm_90 with TensorRT 11.4.0"),
        ({}, Host((), "10.14.1"), "no GPU with TensorRT 10.14.1"),
        ({"flavour": "rtx", "version": "10.14.1.48"}, HERE, "sm_90 with TensorRT 10.14.1"),
        ({"model": "sam_decoder"}, HERE, "sam_encoder on sm_90"),
    ],
)
def test_built_for_another_machine(repository, changes, host, here):
    plan = write_plan(folder_of(repository), **changes)
    text = refusal(repository, host)
    assert text.startswith(f"{plan.name}: built for {plan.model} on sm_90 with {plans.FLAVOURS[plan.flavour]} 10.14.1.48; ")
    assert here in text and "--precision fp16`" in text


def test_another_graph_than_the_present_one(repository):
    old = write_plan(folder_of(repository))
    (folder_of(repository) / "model.fp16.onnx").write_bytes(b"exported again")
    write_manifest(repository)
    new = artefacts.file_hash(folder_of(repository) / "model.fp16.onnx")[7:19]
    text = refusal(repository)
    assert old.name in text and f"model.fp16.onnx with sha256 {old.name.split('.')[-2]}; the present one has sha256 {new}" in text
    write_manifest(repository, ["model.onnx"])
    assert "the present one is not in the manifest" in refusal(repository)


def test_weights_beside_the_graph_count(repository):
    data = folder_of(repository) / "model.fp16.onnx.data"
    data.write_bytes(b"weights")
    write_manifest(repository, ["model.onnx", "model.fp16.onnx", data.name])
    listed = plans.listed_onnx(artefacts.load_manifest(repository / "sam_encoder", "real"), "fp16")
    write_plan(folder_of(repository), onnx=listed)
    plans.check_plan(repository, "sam_encoder", "real", HERE)
    data.write_bytes(b"other weights")
    write_manifest(repository, ["model.onnx", "model.fp16.onnx", data.name])
    assert "the present one has sha256" in refusal(repository)


def test_no_plan(repository):
    assert refusal(repository).startswith("sam_encoder: no TensorRT plan of profile 'real'; build it on this machine with")
    write_plan(folder_of(repository)).path.unlink()  # the link dangles
    assert "no TensorRT plan" in refusal(repository)


def test_damaged_files(repository):
    folder = folder_of(repository)
    plan = write_plan(folder)
    plan.path.write_bytes(plan.path.read_bytes()[:-1])
    assert f"{plan.name}: {plan.bytes - 1} bytes long, expected {plan.bytes}" in refusal(repository)
    plan.path.write_bytes(b"x" * plan.bytes)
    assert "damaged or replaced" in refusal(repository)
    described = write_plan(folder).path.with_suffix(".json")
    content = json.loads(described.read_text())
    damaged = [
        "",
        "[]",
        "{}",
        described.read_text()[:40],
        json.dumps({**content, "precision": "bf16"}),
        json.dumps({**content, "extra": 1}),
    ]
    for text in (*damaged, json.dumps({**content, "profiles": []}), json.dumps({**content, "onnx": []})):
        described.write_text(text)
        assert f"{plan.name}: {described.name} is damaged or describes another plan" in refusal(repository)
    described.unlink()
    assert f"{described.name} is missing" in refusal(repository)


def test_ranges_narrower_than_the_configuration(repository):
    plan = write_plan(folder_of(repository))
    assert f"{plan.name}: built with 1 optimisation profiles and batches up to 8; its configuration uses 1 and 16" in refusal(
        repository, batch=16
    )
    assert "its configuration uses 2 and 8" in refusal(repository, batch=8, used=2)


def test_a_repository_is_checked_by_its_configurations(repository):
    text = configs.config("sam_encoder")
    config = repository / "sam_encoder" / "config.pbtxt"
    used, batch = 3, 8
    config.write_text(text.split("instance_group")[0] + 'instance_group [ { kind: KIND_GPU profile: [ "0", "1", "2" ] } ]\n')
    with pytest.raises(ArtefactError, match="no TensorRT plan"):
        plans.check_repository(repository, "", "real", HERE)
    write_plan(folder_of(repository))
    with pytest.raises(ArtefactError, match=f"uses {used} and"):
        plans.check_repository(repository, "", "real", HERE)
    config.write_text(f'platform: "tensorrt_plan"\ndefault_model_filename: "real/model.plan"\nmax_batch_size: {batch}\n')
    assert [plan.model for plan in plans.check_repository(repository, "", "real", HERE)] == ["sam_encoder"]
    assert plans.check_repository(repository, "no_such_variant", "real", HERE)
    with pytest.raises(ArtefactError, match="loads the plan of profile 'real', expected 'mine'; .*configs --write --profile mine"):
        plans.check_repository(repository, "", "mine", HERE)


def test_the_cpu_configuration_asks_for_no_gpu(repository, monkeypatch):
    (repository / "sam_encoder" / "configs").mkdir()
    (repository / "sam_encoder" / "configs" / "cpu.pbtxt").write_text(configs.config("sam_encoder", CPU))
    monkeypatch.setattr(plans, "this_host", lambda: pytest.fail("looked for a GPU"))
    assert plans.check_repository(repository, "cpu", "real") == []


def test_the_server_is_not_started(repository, monkeypatch):
    """`sightline-serve` refuses the misfit while it still only looks at its options."""
    plan = write_plan(folder_of(repository))
    monkeypatch.setattr(plans, "this_host", lambda: Host(("sm_80",), "10.14.1"))
    options = ["--repository", str(repository), "--products", str(repository / "products"), "--config", ""]
    args: argparse.Namespace = cli.parser().parse_args([*options, *(f"--{name}-port=0" for name in ("grpc", "http", "metrics", "health"))])
    triton = launcher.Triton(repository / "tritonserver", None)
    with pytest.raises(launcher.ServeError, match=f"{plan.name}: built for sam_encoder on sm_90"):
        cli.settings(args, triton)
    monkeypatch.setattr(plans, "this_host", lambda: HERE)
    text = (repository / "sam_encoder" / "config.pbtxt").read_text()
    (repository / "sam_encoder" / "config.pbtxt").write_text(
        text.split("instance_group")[0].replace("max_batch_size: 16", "max_batch_size: 8")
    )
    assert cli.settings(args, triton).profile == "real"


def test_this_host(tmp_path, monkeypatch):
    plans.this_host.cache_clear()
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 9.0\necho 9.0\necho 12.0\n")
    tool.chmod(0o755)
    (tmp_path / "libnvinfer.so.10.14.1").touch()
    (tmp_path / "libnvinfer.so.10").symlink_to("libnvinfer.so.10.14.1")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert plans.this_host() == Host(("sm_90", "sm_120"), "10.14.1")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert plans.gpu_architectures() == ()
    plans.this_host.cache_clear()
