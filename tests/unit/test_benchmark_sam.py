"""benchmarks/sam.py from end to end on a size made small, and what its figures stand on: the work, and the forms of attention."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sightline_export.sam_encoder import SIZES, SamSize, attend
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import harness  # noqa: E402
import sam  # noqa: E402
import sam_clock  # noqa: E402
import sam_parts  # noqa: E402
import sam_runners  # noqa: E402
import sam_torch  # noqa: E402

MINI = SamSize("mini", 64, 2, 2, (1,), image_size=128, window=5, out=32)
CPU = torch.device("cpu")
QUICK = ["torch eager", "torch SDPA, bias folded", "torch.compile, flex attention", "ONNX Runtime", "TensorRT"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread: on a busy machine two would wait for each other more than they work."""
    monkeypatch.setitem(SIZES, "mini", MINI)
    monkeypatch.setitem(sam_clock.SIDE, "cpu", 512)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def parts() -> dict[str, sam_parts.Part]:
    return {name: make(MINI) for name, make in sam_parts.PARTS.items()}


def place(folder: Path) -> sam_runners.Place:
    return sam_runners.Place(CPU, folder, (1, 2), lambda: 60.0)


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sam_clock.DTYPES, "fp16")  # a CPU takes minutes for its ceiling: it must not be asked for
    out = tmp_path / "new" / "sam.csv"
    assert sam.main(["--models", "mini", "--batches", "2", "1", "--only", *QUICK, "--out", str(out)]) == 0
    rows = harness.read_csv(out)
    assert list(rows[0]) == [
        "machine", "part", "model", "technique", "dtype", "batch", "ms", "images_s", "x_eager", "tflops", "ceiling_tflops", "share",
        "copy_gb_s", "parity", "runs", "first_s", "remark", "versions", "date",
    ]  # fmt: skip
    measured = [row for row in rows if row["ms"]]
    names = [(row["part"], row["technique"], row["dtype"], row["batch"]) for row in measured]
    assert names == [
        (part, technique, dtype, batch)
        for part, techniques in (("encoder", [*QUICK[:2], QUICK[3]]), ("decoder", [QUICK[0], QUICK[3]]))
        for technique, dtype in zip(techniques, ["fp32", *["bf16"] * (part == "encoder"), "fp32"], strict=True)
        for batch in ("1", "2")
    ]
    for row in measured:
        batch, ms, rate = int(row["batch"]), float(row["ms"]), float(row["tflops"])
        flops = sam_parts.PARTS[row["part"]](MINI).flops
        assert float(row["images_s"]) == pytest.approx(1e3 * batch / ms, rel=2e-3)
        assert rate == pytest.approx(1e-9 * flops * batch / ms, rel=2e-3)
        assert 0 < float(row["share"]) <= 1.2 and float(row["share"]) == pytest.approx(rate / float(row["ceiling_tflops"]), rel=2e-3)
        assert float(row["parity"]) < (2e-2 if row["dtype"] == "bf16" else 1e-5) and int(row["runs"]) >= 2
        assert f"torch {torch.__version__}" in row["versions"] and ("onnxruntime" in row["versions"]) == ("ONNX" in row["technique"])
    first = next(row for row in measured if row["technique"] == "torch eager")
    assert (first["x_eager"], first["parity"]) == ("1", "0")
    absent = {(row["technique"], row["dtype"]): row["remark"] for row in rows if not row["ms"]}
    assert set(absent) == {(QUICK[2], "fp32"), ("ONNX Runtime", "fp16"), ("TensorRT", "fp16"), ("TensorRT", "bf16")}
    assert all(remark.startswith("absent: ") for remark in absent.values())
    printed = capsys.readouterr().out
    assert all(remark in printed for remark in absent.values()) and "encoder of mini: " in printed


def test_what_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sam.csv"
    call = ["--models", "mini", "--parts", "encoder", "--only", "torch eager", "--batches", "1", "2", "--out", str(out)]
    assert sam.main([*call, "--minutes", "1e-9"]) == 1
    rows = harness.read_csv(out)
    assert [row["batch"] for row in rows] == ["1", "2"] and not any(row["ms"] for row in rows)
    assert all("of the budget 0 s are left" in row["remark"] for row in rows)
    enough = 2 * MINI.heads * MINI.grid**4 * 4
    monkeypatch.setattr(sam_clock.Clock, "free", lambda self: enough)
    assert sam.main(call) == 0
    rows = harness.read_csv(out)
    assert rows[0]["ms"] and not rows[1]["ms"] and "GB of memory" in rows[1]["remark"]


def test_a_technique_that_breaks_costs_its_own_row_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(sam_runners, "folded", None)
    monkeypatch.setattr(sam_runners, "prepare_torch", lambda *given: broken if given[2] else sam_torch.prepare(*given))
    out = tmp_path / "sam.csv"
    call = ["--models", "mini", "--parts", "encoder", "--batches", "1", "--only", "torch SDPA", "torch eager", "--out", str(out)]
    assert sam.main(call) == 0
    good, bad = harness.read_csv(out)
    assert good["ms"] and bad["remark"] == "failed: RuntimeError: no kernel for this"


@pytest.mark.parametrize(
    "arguments", [["--batches", "0"], ["--minutes", "0"], ["--minutes", "nan"], ["--only", "magic"], ["--models", "vit_x"]]
)
def test_bad_arguments_are_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sam.main(arguments)
    assert arguments[1] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", list(sam_parts.PARTS))
@torch.inference_mode()
def test_the_work_is_what_torch_counts(parts: dict[str, sam_parts.Part], name: str) -> None:
    part = parts[name]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention would not be counted
        part.module(*part.inputs(3).values())
    assert counter.get_total_flops() == 3 * part.flops


@pytest.mark.parametrize("form", [sam_torch.folded, sam_torch.flexible])
@pytest.mark.parametrize("side", [8, 5])
@torch.inference_mode()
def test_other_forms_of_attention_are_exact(form: sam_torch.Attend, side: int) -> None:
    """In double precision they agree to its rounding; positions as large as the scores, rows and columns told apart."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, side * side, 16, dtype=torch.float64) for _ in range(3))
    by_row, by_column = (3 * torch.randn(3, 2, side, side, side, dtype=torch.float64) for _ in range(2))
    expected = attend(q, k, v, by_row, by_column, 0.25)
    assert (form(q, k, v, by_row, by_column, 0.25) - expected).abs().max() < 1e-12
    assert (form(q, k, v, by_column, by_row, 0.25) - expected).abs().max() > 0.1


@pytest.mark.parametrize("name", list(sam_parts.PARTS))
@torch.inference_mode()
def test_few_graphs_are_compiled_for_all_blocks_and_batches(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two kinds of blocks, one graph each for batch 1 and for all others; what is traced runs as it is, kernels would take minutes."""
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, fullgraph: original(module, fullgraph=fullgraph, backend="eager"))
    part = sam_parts.PARTS[name](replace(MINI, depth=6, global_blocks=(1, 3)))
    technique = next(t for t in sam_runners.techniques(False) if t.name == "torch.compile")
    runner = technique.prepare(part, place(tmp_path))
    counters.clear()
    for batch in (1, 2, 3):
        expected, found = part.module(*part.inputs(batch).values()), runner(part.inputs(batch))()
        assert torch.allclose(found, expected[0] if isinstance(expected, tuple) else expected, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == (4 if name == "encoder" else 2)


def test_the_smallest_batch_has_a_plan_profile_of_its_own() -> None:
    assert sam_runners._profiles([16, 1, 4]) == [(1, 1, 1), (4, 16, 16)]
    assert sam_runners._profiles([8]) == [(8, 8, 8)]


def test_a_plan_is_run_on_the_tensors_it_was_given(parts: dict[str, sam_parts.Part], monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's calls in their order, by a stand-in: no machine of the suite has a GPU."""
    part, calls, places = parts["decoder"], [], {}

    class Context:
        def set_optimization_profile_async(self, index: int, stream: int) -> None:
            calls.append(("profile", index, stream))

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
            calls.append((name, shape))

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return {"low_res_masks": (3, 1, 32, 32), "iou_predictions": (3, 1)}[name]

        def set_tensor_address(self, name: str, address: int) -> None:
            places[name] = address

        def execute_async_v3(self, stream: int) -> bool:
            calls.append(("run", stream))
            return len(calls) < 6

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7, synchronize=lambda: None))
    trt, engine = SimpleNamespace(__name__="tensorrt", __version__="0"), SimpleNamespace(create_execution_context=Context)
    step = sam_runners._planned(trt, None, engine, part, [(1, 1, 1), (2, 4, 4)], CPU)(part.inputs(3))
    out = step()
    assert calls == [
        ("profile", 1, 7), ("image_embedding", (3, 256, 8, 8)), ("point_coords", (3, 1, 2, 2)), ("point_labels", (3, 1, 2)), ("run", 7),
    ]  # fmt: skip
    assert out.shape == (3, 1, 32, 32) and places["low_res_masks"] == out.data_ptr() and len(places) == 5
    with pytest.raises(RuntimeError, match="could not run the plan at batch 3"):
        step()
    with pytest.raises(sam_runners.Absent, match="cannot load"):
        sam_runners._planned(trt, None, None, part, [(1, 1, 1)], CPU)


def test_the_same_number_is_the_same_picture(parts: dict[str, sam_parts.Part]) -> None:
    for part in parts.values():
        one, three = part.inputs(1), part.inputs(3)
        assert all(torch.equal(one[name], three[name][:1]) for name in one)
        assert not torch.equal(*next(iter(three.values()))[:2])


def test_the_bare_machines_command_finds_the_packages(tmp_path: Path) -> None:
    """The docstring's command, with its mapping elsewhere and nothing but site-packages' third parties."""
    command = sam.__doc__.split("mkdir -p", 1)[1].split("python3 benchmarks/sam.py")[0]
    command = "mkdir -p" + command.replace("/tmp/map", str(tmp_path / "map")).replace("\\\n", "")
    code = "import sys; sys.path.insert(0, 'benchmarks'); import sam, sightline_export as e; print(e.__file__)"
    shown = subprocess.run(
        ["bash", "-c", f'{command} "$PYTHON" -c "{code}"'], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHON": sys.executable},
    )  # fmt: skip
    assert shown.stdout.strip().startswith(str(tmp_path / "map")), shown.stderr
