"""Multiply the alpha and beta of a Gemm into its constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer
from qtool.graph.view import attribute_float, float_constant, is_op


def normalize_gemm(model: ir.Model) -> str:
    """alpha A B + beta C with constant B (and C) -> A (alpha B) + (beta C).

    The int32 bias of a quantized Gemm has the scale s_a * s_b, without alpha or beta.
    """
    namer = Namer(model)
    count = 0
    for node in list(model.graph.all_nodes()):
        if not is_op(node, "Gemm") or not isinstance(node.graph, ir.Graph):
            continue
        factors = {1: attribute_float(node, "alpha", 1.0), 2: attribute_float(node, "beta", 1.0)}
        todo = {i: f for i, f in factors.items() if f != 1.0 and i < len(node.inputs) and node.inputs[i]}
        arrays = {i: float_constant(node.inputs[i]) for i in todo}
        if not todo or any(a is None for a in arrays.values()):
            continue
        with np.errstate(over="ignore"):
            scaled = {i: (np.asarray(arrays[i], np.float64) * f).astype(np.float32) for i, f in todo.items()}
        if not all(np.isfinite(a).all() for a in scaled.values()):
            continue  # the product overflows float32, though the runtime's result may not
        for index, array in scaled.items():
            old = node.inputs[index]
            name = namer(f"{old.name if old else node.name}_scaled")
            node.replace_input_with(index, add_initializer(node.graph, name, array))
        node.attributes.pop("alpha", None)
        node.attributes.pop("beta", None)
        count += 1
    return f"{count} Gemms scaled through their constants" if count else ""
