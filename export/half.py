"""fp16 and bf16 twins of an fp32 graph, with a type on every edge: TensorRT builds them strongly typed, as they stand.

A node is computed in the half type unless it belongs to a part that is kept in fp32; casts stand exactly where the type
changes. Inputs and outputs keep their types, so a twin can take the place of its original anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

FLOAT = ir.DataType.FLOAT
HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
NUMPY = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
# They move values and round nothing: they take the type they are given.
MOVES = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
# ONNX has them in bfloat16 from opset 22 on, which today's engines do not read.
NOT_IN_BF16 = frozenset({"Conv", "ConvTranspose"})

SPLIT = "bf16.split"
# result name, operation, inputs ("" is the value to round), type of the result
_THROUGH_FP16 = (("short", "Cast", ("",), ir.DataType.FLOAT16), ("rounded", "Cast", ("short",), FLOAT))
# Dekker's split (Numerische Mathematik 18, 1971) leaves the upper 8 bits of the significand, which are bfloat16's; ONNX
# Runtime's own casts to bfloat16 are several times slower.
_THROUGH_BF16 = (
    ("scaled", "Mul", ("", "split"), FLOAT),
    ("rest", "Sub", ("scaled", ""), FLOAT),
    ("rounded", "Sub", ("scaled", "rest"), FLOAT),
)

Keep = Callable[[ir.Node], bool]
"""True for a node that stays in fp32."""


@dataclass
class _Caster:
    """Makes each cast once."""

    graph: ir.Graph
    precision: str
    made: dict[tuple[str, ir.DataType], ir.Value] = field(default_factory=dict)

    def cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        assert value.name is not None
        key = (value.name, to)
        if key not in self.made:
            self.made[key] = self._constant(value) if value.const_value is not None else self._node(value, to)
        return self.made[key]

    def _constant(self, value: ir.Value) -> ir.Value:
        """An initialiser's copy in the half type (initialisers are never half to begin with)."""
        assert value.const_value is not None
        name = f"{value.name}.{self.precision}"
        array = value.const_value.numpy().astype(NUMPY[self.precision])
        copy = ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=value.shape, type=ir.TensorType(HALVES[self.precision]))
        self.graph.initializers[name] = copy
        return copy

    def _node(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        name = f"{value.name}.{'fp32' if to == FLOAT else self.precision}"
        output = ir.Value(name=name, shape=value.shape, type=ir.TensorType(to))
        node = ir.node("Cast", [value], {"to": int(to)}, outputs=[output], name=name)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return output


def typed(model: ir.Model, precision: str, keep: Keep) -> None:
    """Turn an fp32 model into its fp16 or bf16 twin, in place.

    Args:
        precision: "fp16" or "bf16".
        keep: which nodes stay in fp32; moving nodes follow their input.
    """
    half, graph = HALVES[precision], model.graph
    caster = _Caster(graph, precision)
    for node in list(graph):
        floats = [value for value in (*node.inputs, *node.outputs) if value is not None and value.dtype in (FLOAT, half)]
        if not floats:
            continue
        want = _type_of(node, precision, keep)
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (FLOAT, half) and value.dtype != want and node.op_type != "Cast":
                node.replace_input_with(index, caster.cast(value, want))
        for value in node.outputs:
            if value.dtype == FLOAT:
                value.dtype = want
        if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(want))
    for index, value in enumerate(graph.outputs):
        if value.dtype == half:
            graph.outputs[index] = _given_back(graph, value)
    _drop_unused_constants(graph)


def _given_back(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """An output in fp32, under its old name."""
    name = value.name
    value.name = f"{name}.half"
    output = ir.Value(name=name, shape=value.shape, type=ir.TensorType(FLOAT))
    graph.append(ir.node("Cast", [value], {"to": int(FLOAT)}, outputs=[output], name=f"{name}.fp32"))
    return output


def _type_of(node: ir.Node, precision: str, keep: Keep) -> ir.DataType:
    if node.op_type in MOVES and node.inputs[0] is not None and node.inputs[0].const_value is None:
        return node.inputs[0].dtype or FLOAT
    exact = keep(node) or (precision == "bf16" and node.op_type in NOT_IN_BF16)
    return FLOAT if exact else HALVES[precision]


def _drop_unused_constants(graph: ir.Graph) -> None:
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def rounded(model: ir.Model) -> None:
    """Make a half graph runnable where there is no such hardware, in place: each operation in fp32, its result rounded.

    ONNX Runtime's CPU would compute runs of half nodes in fp32 without rounding between, and so hide what the type does
    (overflow of fp16 above all). Here every result that the graph says is half goes through that half: as on a GPU that
    accumulates in fp32, but without its fusions, so the error is an upper estimate.
    """
    graph = model.graph
    halves = set(HALVES.values())
    for value in list(graph.initializers.values()):
        if value.dtype in halves and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value, value.dtype = ir.tensor(array, name=value.name), FLOAT
    graph.initializers[SPLIT] = ir.Value(
        name=SPLIT, const_value=ir.tensor(np.float32(2**16 + 1), name=SPLIT), shape=ir.Shape([]), type=ir.TensorType(FLOAT)
    )
    for node in list(graph):
        for value in node.outputs:
            if value.dtype in halves:
                _round(graph, node, value)
    _drop_unused_constants(graph)


def _has_epilogue(node: ir.Node, users: list[tuple[ir.Node, int]]) -> bool:
    """A product whose only reader adds to it: every engine adds inside the product, before it rounds."""
    return node.op_type == "MatMul" and len(users) == 1 and users[0][0].op_type == "Add"


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Send a half result through its type and back: everybody reads what comes back."""
    half, users = value.dtype, list(value.uses())
    value.dtype = FLOAT
    if node.op_type in MOVES or _has_epilogue(node, users):
        return  # rounded before, or after
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
    names: dict[str, ir.Value] = {"": value, "split": graph.initializers[SPLIT]}
    steps = _THROUGH_FP16 if half == ir.DataType.FLOAT16 else _THROUGH_BF16
    nodes = []
    for name, operation, inputs, to in steps:
        names[name] = ir.Value(name=f"{value.name}.{name}", shape=value.shape, type=ir.TensorType(to))
        attributes = {"to": int(to)} if operation == "Cast" else {}
        nodes.append(ir.node(operation, [names[i] for i in inputs], attributes, outputs=[names[name]], name=f"{value.name}/{name}"))
    graph.insert_after(node, nodes)
    for user, index in users:
        user.replace_input_with(index, names["rounded"])
