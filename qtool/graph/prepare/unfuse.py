"""Write fused products of onnxruntime's optimizers as standard ops; the runtime fuses them again at load."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, append_node
from qtool.graph.view import attribute_float, attribute_int, float_constant, op_key

_STANDARD = {
    "com.microsoft::FusedConv": "Conv",
    "com.microsoft::FusedGemm": "Gemm",
    "com.microsoft::FusedMatMul": "MatMul",
}
# Activations, and the attributes that their parameters are.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "": (),
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
_TRANSPOSITIONS = ("transA", "transBatchA", "transBatchB")


def unfuse_products(model: ir.Model) -> str:
    """FusedConv, FusedGemm and FusedMatMul become Conv, Gemm and MatMul, with Add and activation behind.

    1. The alpha and the transposition of a FusedMatMul go into its weight, unless others share that.
    2. One with an activation that is not known here, or with a transposed input, stays.
    """
    namer = Namer(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        if op_key(node) in _STANDARD and isinstance(node.graph, ir.Graph):
            count += _plain_matmul(node, namer) if node.op_type == "FusedMatMul" else _unfused(node, namer)
    return f"{count} fused products written as standard ops" if count else ""


def _plain_matmul(node: ir.Node, namer: Namer) -> bool:
    alpha, transposed = attribute_float(node, "alpha", 1.0), attribute_int(node, "transB", 0)
    weight, value, graph = float_constant(node.inputs[1]), node.inputs[1], node.graph
    if any(attribute_int(node, name, 0) for name in _TRANSPOSITIONS) or not isinstance(graph, ir.Graph):
        return False
    if alpha != 1.0 or transposed:
        if weight is None or weight.ndim < 2 or value is None or len(value.uses()) > 1:
            return False
        with np.errstate(over="ignore"):
            new = np.float32(alpha) * (weight.swapaxes(-1, -2) if transposed else weight)
        if not np.isfinite(new).all():
            return False
        node.replace_input_with(1, add_initializer(graph, namer(f"{value.name}_plain"), new))
    _make_standard(node)
    return True


def _unfused(node: ir.Node, namer: Namer) -> bool:
    named = node.attributes.get("activation")
    kind = "" if named is None else named.as_string()
    parameters = _parameters(node)
    graph = node.graph
    if kind not in _ACTIVATIONS or len(parameters) < len(_ACTIVATIONS[kind]):
        return False
    if not isinstance(graph, ir.Graph):
        return False
    added = node.inputs[3] if node.op_type == "FusedConv" and len(node.inputs) > 3 else None
    if node.op_type == "FusedConv":
        node.resize_inputs(min(len(node.inputs), 3))
    _make_standard(node)
    value = node.outputs[0]
    if added is not None:
        value = append_node(value, "Add", [added], graph, namer)
    words = dict(zip(_ACTIVATIONS[kind], parameters, strict=False))
    if kind == "Clip":
        bounds = [
            add_initializer(graph, namer(f"{node.name}_{word}"), np.asarray(number, np.float32))
            for word, number in words.items()
        ]
        append_node(value, kind, bounds, graph, namer)
    elif kind:
        attributes = {word: ir.AttrFloat32(word, number) for word, number in words.items()}
        append_node(value, kind, [], graph, namer, attributes)
    return True


def _parameters(node: ir.Node) -> list[float]:
    """Return the parameters of the activation: one attribute of a FusedConv, up to three of a FusedGemm."""
    listed = node.attributes.get("activation_params")
    if listed is not None:
        return list(listed.as_floats())
    words = (f"activation_{word}" for word in ("alpha", "beta", "gamma"))
    return [node.attributes[word].as_float() for word in words if word in node.attributes]


def _make_standard(node: ir.Node) -> None:
    node.op_type, node.domain = _STANDARD[op_key(node)], ""
    for name in list(node.attributes):
        if name.startswith("activation") or (node.op_type == "MatMul"):
            node.attributes.pop(name)
