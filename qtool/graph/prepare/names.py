"""Every node and value gets a name of its own, across nested graphs too."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def unique_names(model: ir.Model) -> str:
    """Name what has no name, rename what shares one; names that users know (inputs, outputs) stay.

    A plan speaks of nodes and values by name alone, so a name must mean one thing.
    """
    common.NameFixPass()(model)
    taken: set[str] = set()
    counts: dict[str, int] = {}
    nameless = 0
    for node in model.graph.all_nodes():
        nameless += not node.name or node.name.startswith("node_")
        wish = node.name if node.name and not node.name.startswith("node_") else node.op_type
        name = wish
        while name in taken:
            counts[wish] = counts.get(wish, 0) + 1
            name = f"{wish}_{counts[wish]}"
        taken.add(name)
        node.name = name
    return ""
