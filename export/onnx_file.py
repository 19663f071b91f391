"""torch module -> ONNX file: traced without computing, named by module, one file beside it for weights beyond protobuf's 2 GiB."""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections import Counter
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor, nn

OPSET = 20  # GELU and layer norm are one node each
EXTERNAL = 2**30  # bytes of weights beyond which they go to a file of their own
_SCOPES = "pkg.torch.onnx.name_scopes"


def write_onnx(
    module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path, dynamic: dict[str, dict[int, str]]
) -> None:
    """Export with a dynamic batch.

    Args:
        inputs: an example of each of `forward`'s arguments, by name, with at least 2 along every dynamic axis.
        dynamic: further dynamic axes by input and axis; axes of one name are equal.
    """
    dims = {name: torch.export.Dim(name) for name in {"batch", *(d for axes in dynamic.values() for d in axes.values())}}
    shapes = {name: {axis: dims[d] for axis, d in {0: "batch", **dynamic.get(name, {})}.items()} for name in inputs}
    for logger in ("torch.onnx", "torch.export"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on packages that no graph here needs
        program = torch.onnx.export(
            module.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=list(outputs),
            dynamic_shapes=shapes, opset_version=OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None
    model = program.model
    _name_by_module(model)
    save(model, path)


def save(model: ir.Model, path: Path) -> list[Path]:
    """Write a model; returns its files: `path`, and `<path>.data` beside it where the weights are too many for one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = f"{path.name}.data" if size > EXTERNAL else None
    ir.save(model, path, external_data=data)
    return [path, path.with_name(data)] if data else [path]


def files_of(path: Path) -> list[Path]:
    """The files of an ONNX model: itself and its weights' file, where it has one."""
    data = path.with_name(f"{path.name}.data")
    return [path, data] if data.exists() else [path]


def _name_by_module(model: ir.Model) -> None:
    """Call each node `<module path>/<operation>`: what profilers show and precision is chosen by. Traces of source lines go."""
    seen: Counter[str] = Counter()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        scope, operation = scopes[-2:] if len(scopes) > 1 else ("", node.op_type.lower())
        name = f"{scope}/{re.sub(r'_[0-9]+$', '', operation)}"
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1
        for holder in (node, *node.outputs):
            holder.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
