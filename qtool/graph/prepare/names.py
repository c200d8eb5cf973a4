"""Give every node and value a unique name, across nested graphs too."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def unique_names(model: ir.Model) -> str:
    """Name nameless nodes and values, and rename duplicates; names in the main graph stay.

    In ONNX the two branches of an If may use one name. A plan refers to nodes and values by name, so names
    must be unique.
    """
    _nodes(list(model.graph.all_nodes()))
    common.NameFixPass()(model)  # nameless values, and clashes within a scope
    _values(model)
    return ""


def _nodes(nodes: list[ir.Node]) -> None:
    names = {node.name for node in nodes if node.name}
    used: set[str] = set()
    for node in nodes:
        if not node.name or node.name in used:
            base = node.name or node.op_type
            node.name = base if base not in names else _free(base, names)
            names.add(node.name)
        used.add(node.name)


def _values(model: ir.Model) -> None:
    """Rename values of nested graphs whose names another graph uses; the main graph keeps its names."""
    taken: set[str] = set()
    for graph in model.graphs():
        made = [v for node in graph for v in node.outputs if v.name]
        for value in (*graph.inputs, *graph.initializers.values(), *made):
            name = value.name or ""
            if name in taken and not (value.is_initializer() and value.is_graph_input()):
                name = _free(name, taken)
                if value.is_initializer() and value.const_value is not None:
                    # A tensor knows its name, and the model that this one was cloned from shares it.
                    value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
                ir.convenience.rename_values(value, name)
            taken.add(name)


def _free(base: str, taken: set[str]) -> str:
    number = 1
    while f"{base}_{number}" in taken:
        number += 1
    return f"{base}_{number}"
