"""Features of a graph that tell what kind of model it is (tables/architectures.py)."""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.view import attribute_int, constant, op_key

_OPS = {
    "upsampling": {"ConvTranspose", "Resize", "Upsample", "DepthToSpace"},
    "boxes": {"NonMaxSuppression", "RoiAlign", "com.microsoft::NonMaxSuppression"},
    "recurrent": {"LSTM", "GRU", "RNN", "com.microsoft::DynamicQuantizeLSTM"},
    "product": {"MatMul", "Gemm", "com.microsoft::FusedMatMul", "com.microsoft::MatMulNBits"},
    "attention": {
        *("Attention", "com.microsoft::Attention", "com.microsoft::MultiHeadAttention"),
        "com.microsoft::GroupQueryAttention",
    },
}
# A smaller table is no vocabulary: positions, segments.
_LEAST_ROWS = 200


def features_of(model: ir.Model) -> frozenset[str]:
    """Return the features of a model: those of _OPS, conv, depthwise, tokens and vocabulary."""
    features: set[str] = set()
    depthwise = convolutions = 0
    tables: set[int] = set()
    softmax = False
    for node in model.graph.all_nodes():
        key = op_key(node)
        if key in ("Conv", "QLinearConv", "ConvInteger", "com.microsoft::FusedConv"):
            convolutions += 1
            depthwise += attribute_int(node, "group", 1) > 1
        features |= {feature for feature, ops in _OPS.items() if key in ops}
        softmax |= key == "Softmax" and _is_read_by_product(node)
        table = constant(node.inputs[0]) if key == "Gather" and node.inputs else None
        if table is not None and table.ndim == 2 and len(table) >= _LEAST_ROWS:
            tables.add(len(table))
    features |= {"conv"} if convolutions else set()
    features |= {"depthwise"} if 4 * depthwise > convolutions > 0 else set()
    features |= {"attention"} if softmax else set()
    features |= {"tokens"} if tables else set()
    outputs = (v.shape for v in model.graph.outputs)
    if any(s is not None and len(s) and s[len(s) - 1] in tables for s in outputs):
        features.add("vocabulary")
    return frozenset(features)


def _is_read_by_product(node: ir.Node) -> bool:
    """Whether a product reads the result of a node, perhaps behind one other node."""
    near = [use.node for use in node.outputs[0].uses()]
    near += [use.node for n in near for v in n.outputs for use in v.uses()]
    return any(n.op_type == "MatMul" for n in near)
