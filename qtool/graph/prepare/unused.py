"""Remove unused nodes and initializers."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def drop_unused(model: ir.Model) -> str:
    """Remove nodes whose results have no consumer, and initializers without one."""
    before = sum(1 for _ in model.graph.all_nodes())
    common.RemoveUnusedNodesPass()(model)
    for graph in model.graph.subgraphs():
        kept = {id(v) for v in graph.outputs}
        for name, value in list(graph.initializers.items()):
            if not value.uses() and id(value) not in kept:
                del graph.initializers[name]
    removed = before - sum(1 for _ in model.graph.all_nodes())
    return f"{removed} unused nodes removed" if removed else ""
