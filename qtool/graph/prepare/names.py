"""Every node and value gets a name of its own, across nested graphs too."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def unique_names(model: ir.Model) -> str:
    """Name what has no name, rename what shares one; names that users know stay.

    ONNX lets the two branches of an If use one name twice. A plan speaks of nodes and values by name
    alone, so a name must mean one thing.
    """
    _nodes(list(model.graph.all_nodes()))
    common.NameFixPass()(model)  # nameless values, and clashes within a scope
    _values(model)
    return ""


def _nodes(nodes: list[ir.Node]) -> None:
    known = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    for node in nodes:
        if not node.name or node.name in seen:
            wish = node.name or node.op_type
            node.name = wish if wish not in known else _free(wish, known)
            known.add(node.name)
        seen.add(node.name)


def _values(model: ir.Model) -> None:
    """Rename in nested graphs what another graph calls something already; the main graph keeps its names."""
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


def _free(wish: str, taken: set[str]) -> str:
    number = 1
    while f"{wish}_{number}" in taken:
        number += 1
    return f"{wish}_{number}"
