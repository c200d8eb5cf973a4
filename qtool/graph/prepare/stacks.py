"""Make a matrix of a stack of one matrix: kernels accept a scale per column for a matrix only."""

from __future__ import annotations

import onnx_ir as ir

from qtool.errors import counted
from qtool.graph.edit import Namer, add_initializer
from qtool.graph.view import float_constant, is_op, rank


def unstack_matrices(model: ir.Model) -> str:
    """MatMul(x, w) with w [1, .., 1, K, N] of no more axes than x -> w [K, N]: the result keeps its axes."""
    namer = Namer(model)
    made: dict[tuple[int, str], ir.Value] = {}
    count = 0
    for node in list(model.graph.all_nodes()):
        weight = float_constant(node.inputs[1]) if is_op(node, "MatMul") else None
        old, graph = node.inputs[1] if weight is not None else None, node.graph
        if weight is None or old is None or weight.ndim < 3 or not isinstance(graph, ir.Graph):
            continue
        if any(d != 1 for d in weight.shape[:-2]) or (rank(node.inputs[0]) or 0) < weight.ndim:
            continue
        key = id(graph), old.name or ""
        if key not in made:
            made[key] = add_initializer(graph, namer(f"{old.name}_matrix"), weight.reshape(weight.shape[-2:]))
        node.replace_input_with(1, made[key])
        count += 1
    return f"{counted(count, 'weight')} of shape [1, .., 1, K, N] folded to [K, N]" if count else ""
