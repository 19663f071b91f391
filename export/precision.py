"""Which parts of SAM a half graph keeps in fp32: rungs from the fastest to the safest, to be chosen by measured error.

Parts are told by the nodes' names, `<module path>/<operation>` (export/onnx_file.py).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .half import Keep

# Kept on every rung. Norms: their mean and variance overflow fp16 in TensorRT (TensorRT 3692, segment-anything 696), which
# no measurement on a CPU can show. Pixels and points: cheap, and large angles have no meaning in 8 bits.
ALWAYS = ("pixels", "norms", "points")
ENCODER_RUNGS: tuple[tuple[str, ...], ...] = ((), ("neck",), ("neck", "residual"), ("neck", "residual", "attention"))
DECODER_RUNGS: tuple[tuple[str, ...], ...] = ((), ("output",), ("output", "residual"), ("output", "residual", "attention"), ("all",))
"""Parts kept beside ALWAYS. The whole decoder may stay in fp32: it is less than 1 % of the encoder's work."""

Part = Callable[[str, str, ir.Node], bool]  # module path, operation, node

_PARTS: dict[str, Part] = {
    "pixels": lambda scope, op, node: scope == "" and op != "add",
    "norms": lambda scope, op, node: node.op_type == "LayerNormalization",
    "points": lambda scope, op, node: scope.startswith("prompt_encoder"),
    "neck": lambda scope, op, node: scope.startswith("neck"),
    "residual": lambda scope, op, node: node.op_type == "Add" and op.startswith("add") and ("attn" not in scope),
    "attention": lambda scope, op, node: node.op_type == "Softmax" or (op.startswith("add") and scope.endswith("attn")),
    "output": lambda scope, op, node: scope == "mask_decoder" or scope.startswith(("mask_decoder.output", "mask_decoder.iou")),
    "all": lambda scope, op, node: True,
}


def keeper(rung: tuple[str, ...]) -> Keep:
    """True for the nodes that a rung keeps in fp32."""
    parts = [_PARTS[name] for name in (*ALWAYS, *rung)]

    def keep(node: ir.Node) -> bool:
        scope, _, operation = (node.name or "").rpartition("/")
        return any(part(scope, operation, node) for part in parts)

    return keep


def describe(rung: tuple[str, ...]) -> str:
    """What stays in fp32, for tables and manifests."""
    return ", ".join((*ALWAYS, *rung))
