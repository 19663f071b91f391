"""fp16 and bf16 twins: a type on every edge, casts only where it changes, and a form that shows on a CPU what the type does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from sightline_export import precision
from sightline_export.half import FLOAT, HALVES, rounded, typed
from sightline_export.onnx_file import save, write_onnx
from sightline_export.sam_encoder import ImageEncoder

from .conftest import SMALL


@pytest.fixture(scope="module")
def graph(small, tmp_path_factory):
    encoder, path = ImageEncoder(SMALL).eval(), tmp_path_factory.mktemp("graph") / "model.onnx"
    encoder.load_state_dict(small.image_encoder.state_dict())
    inputs = {"sam_pixels": torch.zeros(2, 3, 1024, 1024, dtype=torch.uint8), "resized_size": torch.full((2, 2), 1024, dtype=torch.int32)}
    write_onnx(encoder, inputs, ("image_embedding",), path, {})
    return path


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 3, 1024, 1024)).astype(np.uint8)
    return {"sam_pixels": pixels, "resized_size": np.array([[700, 1024]], np.int32)}


def run(path, feed):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]


def test_graph_is_written_for_fusion(graph):
    nodes = list(ir.load(graph).graph)
    kinds = [node.op_type for node in nodes]
    assert not {"Shape", "Where", "Einsum", "ReduceMean", "ConstantOfShape", "ScatterND"} & set(kinds)
    assert kinds.count("LayerNormalization") == 2 * SMALL.depth + 2 and kinds.count("Softmax") == kinds.count("Gelu") == SMALL.depth
    for softmax in (node for node in nodes if node.op_type == "Softmax"):  # product, one bias, softmax, product
        (add,) = softmax.predecessors()
        assert add.op_type == "Add" and add.inputs[0].producer().op_type == "MatMul" and softmax.successors()[0].op_type == "MatMul"
    windowed = [node for node in nodes if (node.name or "").startswith("blocks.0.attn/")]
    assert [node.op_type for node in windowed].count("Transpose") == 5  # in, out, k, and the columns' position there and back
    assert {tuple(i.shape)[0] for i in ir.load(graph).graph.inputs} == {ir.SymbolicDim("batch")}


def test_nodes_carry_no_trace_of_the_machine(graph):
    assert b"site-packages" not in graph.read_bytes() and b"/export/" not in graph.read_bytes()


@pytest.mark.parametrize("half", ["fp16", "bf16"])
@pytest.mark.parametrize("rung", [(), ("neck", "residual", "attention")])
def test_types_stand_on_every_edge(graph, tmp_path, half, rung):
    model = ir.load(graph)
    before = {v.name: v.dtype for v in (*model.graph.inputs, *model.graph.outputs)}
    typed(model, half, precision.keeper(rung))
    save(model, tmp_path / "twin.onnx")
    onnx.checker.check_model(tmp_path / "twin.onnx", full_check=True)  # shapes and types are inferred anew and must agree
    twin = ir.load(tmp_path / "twin.onnx").graph
    assert {v.name: v.dtype for v in (*twin.inputs, *twin.outputs)} == before
    for node in twin:
        kinds = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.dtype in (FLOAT, HALVES[half])}
        assert len(kinds) == 1 or node.op_type == "Cast" or not kinds, node.name
        if node.op_type == "MatMul" and not ("neck" in rung and node.name.startswith("neck")):
            assert kinds == {HALVES[half]}, node.name
        if node.op_type == "LayerNormalization":
            assert kinds == {FLOAT}
        if node.op_type == "Softmax":
            assert kinds == {FLOAT if "attention" in rung else HALVES[half]}
    weights = [v.const_value.size for v in twin.initializers.values() if v.dtype == FLOAT and v.const_value.size > 4096]
    exact = {SMALL.out * SMALL.width, 9 * SMALL.out**2, 64 * 64 * SMALL.width}  # the neck, and the absolute position
    assert set(weights) <= exact if rung or half == "bf16" else not weights


@pytest.mark.parametrize(("half", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_twin_is_near_its_original_but_rounded(graph, tmp_path, half, error):
    model = ir.load(graph)
    typed(model, half, precision.keeper(()))
    save(model, tmp_path / "twin.onnx")
    twin = ir.load(tmp_path / "twin.onnx")
    rounded(twin)
    save(twin, tmp_path / "rounded.onnx")
    expected, found = run(graph, inputs()), run(tmp_path / "rounded.onnx", inputs())
    difference = np.abs(found - expected).max() / np.ptp(expected)
    assert error / 100 < difference < error


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_rounding_is_the_types_own(tmp_path, half):
    """x + 0 in a half graph gives x rounded to that type, and infinity where fp16 has no room."""
    x = ir.Value(name="x", shape=ir.Shape([None]), type=ir.TensorType(FLOAT))
    y = ir.Value(name="y", shape=ir.Shape([None]), type=ir.TensorType(FLOAT))
    zero = ir.Value(
        name="zero", const_value=ir.tensor(np.zeros(1, np.float32), name="zero"), shape=ir.Shape([1]), type=ir.TensorType(FLOAT)
    )
    node = ir.node("Add", [x, zero], outputs=[y], name="/plus")
    model = ir.Model(ir.Graph([x], [y], nodes=[node], initializers=[zero], opset_imports={"": 20}), ir_version=10)
    typed(model, half, lambda node: False)
    rounded(model)
    save(model, tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 1, 5000) * 10.0 ** rng.integers(-3, 4, 5000)).astype(np.float32)
    kind = np.float16 if half == "fp16" else ml_dtypes.bfloat16
    assert np.array_equal(run(tmp_path / "m.onnx", {"x": values}), values.astype(kind).astype(np.float32))
    large = run(tmp_path / "m.onnx", {"x": np.array([7e4, -7e4], np.float32)})
    assert np.isinf(large).all() if half == "fp16" else np.allclose(large, [7e4, -7e4], rtol=4e-3)
