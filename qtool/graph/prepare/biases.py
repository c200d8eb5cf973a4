"""Make the C of a Gemm one value a channel, as integer kernels need it, or an Add after the Gemm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, append_node
from qtool.graph.prepare.channels import output_channels
from qtool.graph.view import attribute_float, float_constant, is_op, is_vector


def split_biases(model: ir.Model) -> str:
    """Change each Gemm with a constant weight and a C that is no vector.

    A C of zeros, or with beta 0, is removed; a scalar is repeated for each channel; a matrix, a column or a
    computed C is added by an Add.
    """
    namer = Namer(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        if is_op(node, "Gemm") and len(node.inputs) > 2 and node.inputs[2] is not None:
            count += _changed(node, namer)
    return f"{count} Gemms left with biases that are vectors" if count else ""


def _changed(node: ir.Node, namer: Namer) -> bool:
    weight, bias, beta = float_constant(node.inputs[1]), node.inputs[2], attribute_float(node, "beta", 1.0)
    if weight is None or weight.ndim != 2 or bias is None or not isinstance(node.graph, ir.Graph):
        return False
    array, channels = float_constant(bias), output_channels(node, weight)
    if beta == 0.0 or (array is not None and array.size and not array.any()):
        _without(node)
        return True
    if beta != 1.0 or (array is not None and is_vector(array, channels)):
        return False
    if array is not None and array.size == 1:
        spread = np.full(channels, array.reshape(-1)[0], np.float32)
        node.replace_input_with(2, add_initializer(node.graph, namer(f"{bias.name}_spread"), spread))
        return True
    _without(node)
    append_node(node.outputs[0], "Add", [bias], node.graph, namer)
    return True


def _without(node: ir.Node) -> None:
    node.resize_inputs(2)
    node.attributes.pop("beta", None)
