"""What nothing reads is left out."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def drop_unused(model: ir.Model) -> str:
    """Remove nodes whose results nobody reads and initializers that no node reads."""
    before = sum(1 for _ in model.graph.all_nodes())
    common.RemoveUnusedNodesPass()(model)
    for graph in model.graph.subgraphs():
        kept = {id(v) for v in graph.outputs}
        for name, value in list(graph.initializers.items()):
            if not value.uses() and id(value) not in kept:
                del graph.initializers[name]
    removed = before - sum(1 for _ in model.graph.all_nodes())
    return f"{removed} unused nodes removed" if removed else ""
