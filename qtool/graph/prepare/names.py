"""Every node and value gets a name of its own, across nested graphs too."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def unique_names(model: ir.Model) -> str:
    """Name what has no name, rename what shares one; names that users know (inputs, outputs) stay.

    A plan speaks of nodes and values by name alone, so a name must mean one thing.
    """
    taken: set[str] = set()
    counts: dict[str, int] = {}
    nodes = list(model.graph.all_nodes())
    given = {node.name for node in nodes if node.name}
    for node in nodes:
        wish = node.name or node.op_type
        name = wish
        # A made-up name must not be one that the user knows, wherever that node stands.
        while name in taken or (not node.name and name in given):
            counts[wish] = counts.get(wish, 0) + 1
            name = f"{wish}_{counts[wish]}"
        taken.add(name)
        node.name = name
    common.NameFixPass()(model)
    return ""
