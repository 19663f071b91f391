"""`sightline-export engine`, its files and refusals, by real TensorRT-RTX builds of a small graph; failures leave nothing behind."""

import json
import os
import shutil
import signal
import threading
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console
from sightline_ensemble import artefacts, plans
from sightline_ensemble.artefacts import ArtefactError
from sightline_ensemble.contract import MODELS, SEG_SLOTS
from sightline_ensemble.plans import Host
from sightline_export import cli, engine, trt
from sightline_export.engine import Options

NO_GPU = Host((), "")


def small_graph(path, element=TensorProto.FLOAT):
    """A graph with lisa_decoder's tensors that does next to nothing: one product, in the type asked for."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weight = helper.make_tensor("w", element, [256, 256], np.ones((256, 256), dtype).tobytes(), raw=True)
    shapes = {"image_embedding": ["batch", 256, 64, 64], "seg_embeddings": ["batch", SEG_SLOTS, 256]}
    nodes = [
        helper.make_node("Cast", ["seg_embeddings"], ["typed"], to=element),
        helper.make_node("MatMul", ["typed", "w"], ["product"]),
        helper.make_node("Cast", ["product"], ["iou_predictions"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["image_embedding"], ["low_res_masks"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(names, shapes.values(), strict=True)]
        for names in (shapes, ("low_res_masks", "iou_predictions"))
    )
    save(path, helper.make_graph(nodes, "small", inputs, outputs, [weight]))


def save(path, graph):
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


@pytest.fixture
def repository(tmp_path):
    """A repository with one step, profile real, whose graph is small: these tests are about files."""
    folder = tmp_path / "repository" / "lisa_decoder" / "1" / "real"
    folder.mkdir(parents=True)
    small_graph(folder / "model.onnx")
    write_manifest(folder)
    return tmp_path / "repository"


def write_manifest(folder, **more):
    files = [path.name for path in folder.iterdir() if path.name.startswith("model.") and path.suffix == ".onnx"]
    artefacts.write_manifest(folder.parents[1], folder.name, files, source={}, precision="fp32", **more)


def folder_of(repository):
    return repository / "lisa_decoder" / "1" / "real"


def export(repository, **options):
    return engine.export_engines(
        Options(repository, models=("lisa_decoder",), **{"batches": ((1, 1, 1),), **options}), Console(quiet=True), NO_GPU
    )


def failure(capsys, *arguments):
    """The one line of a command that fails."""
    assert cli.main(["engine", *map(str, arguments)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("sightline-export: ")
    return lines[0].removeprefix("sightline-export: ")


def test_the_specs_ranges_are_the_plans(repository):
    (plan,) = export(repository, batches=())
    assert [profile["image_embedding"] for profile in plan.profiles] == [
        [[size, 256, 64, 64] for size in sizes["batch"]] for sizes in MODELS["lisa_decoder"].ranges
    ]


def test_in_use_at_once_and_built_once(repository):
    (plan,) = export(repository)
    link = folder_of(repository) / "model.plan"
    assert os.readlink(link) == plan.path.name  # relative: the repository may be mounted elsewhere
    stamp = plan.path.stat().st_mtime_ns
    assert export(repository) == [plan] and plan.path.stat().st_mtime_ns == stamp
    (other,) = export(repository, architectures=("sm_86",))
    assert os.readlink(link) == other.path.name and ".sm_86.rtx" in other.path.name
    (wider,) = export(repository, batches=((1, 2, 2),))  # same name, other ranges: built again
    assert wider.path == plan.path and wider.largest_batch == 2 and os.readlink(link) == plan.path.name
    plan.path.write_bytes(b"")
    assert export(repository, batches=((1, 2, 2),)) and artefacts.file_hash(plan.path) == plans.read_plan(plan.path).sha256
    with pytest.raises(
        ArtefactError, match="built for lisa_decoder on sm_80.* with TensorRT-RTX .*; here is lisa_decoder on sm_80 with TensorRT 10"
    ):
        plans.check_plan(repository, "lisa_decoder", "real", Host(("sm_80",), "10.14.1"))


def test_the_best_precision_there_is(repository):
    folder = folder_of(repository)
    shutil.copy(folder / "model.onnx", folder / "model.bf16.onnx")
    write_manifest(folder)
    (plan,) = export(repository)
    assert plan.precision == "bf16" and list(plan.onnx) == ["model.bf16.onnx"]
    (plan,) = export(repository, precision="fp32")
    assert plan.precision == "fp32" and list(plan.onnx) == ["model.onnx"]
    with pytest.raises(trt.EngineError, match="profile 'real' has no model.fp16.onnx, only model.bf16.onnx, model.onnx"):
        export(repository, precision="fp16")


def test_half_graphs_stay_half(repository):
    """Strongly typed: the graph's own types decide, and the plan's inputs and outputs keep theirs."""
    folder = folder_of(repository)
    for precision, element in (("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)):
        small_graph(folder / f"model.{precision}.onnx", element)
    write_manifest(folder)
    for precision in plans.PRECISIONS:
        (plan,) = export(repository, precision=precision)
        assert set(plan.inputs.values()) == set(plan.outputs.values()) == {"FP32"} and f".{precision}." in plan.path.name


def test_weights_in_a_second_file(repository, tmp_path, capsys):
    model = onnx.load(folder_of(repository) / "model.onnx")
    path = tmp_path / "big.onnx"
    onnx.save(model, path, save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    options = ["--model", "lisa_decoder", "--onnx", path, "--out", tmp_path / "plans", "--batch", "1"]
    assert cli.main(["engine", *map(str, options)]) == 0
    (plan,) = (tmp_path / "plans").glob("*.plan")
    assert set(plans.read_plan(plan).onnx) == {"big.onnx", "big.onnx.data"}
    (tmp_path / "big.onnx.data").unlink()
    assert str(path) in failure(capsys, *options)


def test_broken_graphs(repository, tmp_path, capsys):
    out = tmp_path / "plans"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    unknown = helper.make_graph([helper.make_node("NoSuchOperation", ["x"], ["y"], name="block/strange")], "g", value[:1], value[1:])
    save(tmp_path / "unknown.onnx", unknown)
    save(tmp_path / "foreign.onnx", helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:]))
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes((folder_of(repository) / "model.onnx").read_bytes()[:100_000])
    for name, expected in {
        "unknown": "node block/strange (NoSuchOperation)", "foreign": "expected those of lisa_decoder", "empty": "holds no ONNX graph",
        "cut": "Failed to parse", "missing": "no such file",
    }.items():  # fmt: skip
        text = failure(capsys, "--model", "lisa_decoder", "--onnx", tmp_path / f"{name}.onnx", "--out", out)
        assert text.startswith(f"{tmp_path / name}.onnx: ") and expected in text
    assert not out.exists()


def test_what_cannot_be_built(repository, tmp_path, capsys):
    before = sorted(folder_of(repository).iterdir())
    options = ("--repository", repository, "--model", "lisa_decoder")
    text = failure(capsys, *options, "--architecture", "sm_75")  # Turing has no fp32 matrix products in TensorRT-RTX
    assert text.startswith(f"{folder_of(repository) / 'model.onnx'}: ") and "Turing" in text
    assert "builds for sm_75, sm_80, sm_86, sm_89, sm_120, sm_121 here, not for sm_90" in failure(
        capsys, *options, "--architecture", "sm_90"
    )
    assert "no artefacts of profile 'other'" in failure(capsys, *options, "--profile", "other")
    assert "no ONNX graphs" in failure(capsys, "--repository", tmp_path / "nowhere")
    assert "needs one --model" in failure(capsys, "--onnx", before[0])
    (folder_of(repository) / "model.onnx").write_bytes(b"changed")
    assert "is not the file of its manifest" in failure(capsys, *options)
    assert sorted(folder_of(repository).iterdir()) == before


@pytest.mark.parametrize("text", ["0", "2,1,4", "1,2", "a", "1,2,3,4", "-1", "1.5", ""])
def test_ranges_are_checked(text, capsys):
    with pytest.raises(SystemExit):
        cli.main(["engine", "--batch", text])
    assert "expected N or MIN,OPT,MAX" in capsys.readouterr().err


def test_an_axis_without_a_range(tmp_path, capsys):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "width"]) for name in ("x", "y")]
    save(tmp_path / "wide.onnx", helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:]))
    text = failure(capsys, "--model", "lisa_decoder", "--onnx", tmp_path / "wide.onnx", "--out", tmp_path)
    assert "wide.onnx: x has a dynamic axis 'width'" in text and "--axis" in text


def test_ctrl_c_leaves_nothing(repository, monkeypatch, capsys):
    """The signal comes at the builder's first step, and the build ends there; a builder for which that was the last one may have done."""
    before, ended, events, more = sorted(folder_of(repository).iterdir()), [], [], []

    def build(*arguments):
        events.extend(argument for argument in arguments if isinstance(argument, threading.Event))
        try:
            return trt.build(*arguments)
        except trt.EngineError as error:
            ended.append(str(error))
            raise

    def step(self, *arguments, **named):
        (cancelled,) = events
        if cancelled.is_set():
            more.append(named)
        else:
            os.kill(os.getpid(), signal.SIGINT)
            cancelled.wait(30)  # or a small graph may be built before the other thread hears of it

    monkeypatch.setattr(engine, "build", build)
    monkeypatch.setattr(trt.Progress, "update", step)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script started us in the background
    try:
        assert cli.main(["engine", "--repository", str(repository)]) == 130
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert events[0].is_set() and (ended == ["cancelled"] or not more) and "interrupted" in capsys.readouterr().err
    assert sorted(folder_of(repository).iterdir()) == before


def test_a_full_disk_leaves_nothing(repository, monkeypatch):
    before = sorted(folder_of(repository).iterdir())
    monkeypatch.setattr(engine, "file_hash", lambda path: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        export(repository)
    assert sorted(folder_of(repository).iterdir()) == before


def test_tensorrt_itself_builds_for_the_gpu_present(repository, tmp_path, monkeypatch):
    """The way of the `tensorrt` module, on the other one's builder: same interface, with a timing cache and no choice of GPU."""
    module, host, cache = trt.toolkit().module, Host(("sm_90",), "10.14.1"), tmp_path / "timing.cache"
    monkeypatch.setattr(engine, "toolkit", lambda: trt.Toolkit(module, "trt", "10.14.1.48"))
    options = Options(repository, batches=((1, 4, 8),), timing_cache=cache)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for content in (None, cache.read_bytes, lambda: b"damaged"):
            if content:
                cache.write_bytes(content())
            (plan,) = engine.export_engines(
                options if not content else Options(**{**vars(options), "force": True}), Console(quiet=True), host
            )
            assert cache.stat().st_size > 100
    assert plan.path.name.startswith("lisa_decoder.sm_90.trt10.14.1.48.fp32.")
    assert plans.check_plan(repository, "lisa_decoder", "real", host, batch=8) == plan
    with pytest.raises(
        ArtefactError, match=f"{plan.path.name}: built for lisa_decoder on sm_90 with TensorRT 10.14.1.48; here is .* on sm_80"
    ):
        plans.check_plan(repository, "lisa_decoder", "real", Host(("sm_80",), "10.14.1"))
    with pytest.raises(trt.EngineError, match="builds for sm_90 here, not for sm_80"):
        engine.export_engines(Options(repository, architectures=("sm_80",)), Console(quiet=True), host)
    with pytest.raises(trt.EngineError, match="nvidia-smi finds none here"):
        engine.export_engines(options, Console(quiet=True), NO_GPU)
    assert json.loads(plan.path.with_suffix(".json").read_text())["flavour"] == "trt"


def test_no_tensorrt(monkeypatch, repository, capsys):
    monkeypatch.setattr(trt, "_MODULES", (("no_such_tensorrt", "trt"),))
    assert "install `tensorrt`" in failure(capsys, "--repository", repository)
