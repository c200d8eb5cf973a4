"""Take the quantization out of a model that came with it, and keep its grids.

The float model that remains is prepared and planned as any other. The plan writes the quantization anew, in
the form that the target runs fast and at the same scales (plan/resolve.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qtool.errors import counted
from qtool.graph.edit import Namer, add_initializer, new_node
from qtool.graph.grids import Grid, Grids
from qtool.graph.prepare.folding import evaluate
from qtool.graph.prepare.requantize import drop_pair, pair_before, restore
from qtool.graph.prepare.unused import drop_unused
from qtool.graph.view import constant, is_op, opset_of, sole_consumer
from qtool.tables.ops import OPS, Q_MOVES_UP_THROUGH, Role

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
# Exports of training quantize float weights in the graph, to a reduced range by a Clip.
_OF_WEIGHTS = ("QuantizeLinear", "Clip")
_WEIGHT_TYPES = frozenset({"int8", "uint8", "int32"})
# onnx.reference has QuantizeLinear of all axes and types from this opset on.
_EVALUATED_AS = 21


def has_quantizers(model: ir.Model) -> bool:
    """Return whether a model came with QuantizeLinear."""
    bodies = (n for f in model.functions.values() for n in f.all_nodes())
    return any(is_op(node, "QuantizeLinear") for node in (*model.graph, *bodies))


def keep_grids(model: ir.Model, bits: int) -> tuple[str, Grids]:
    """Drop Q -> DQ in the main graph, restore 8-bit weights, and return the grids of both.

    What has another width stays as it is, and so do nodes inside an If, Loop or Scan and the weights of nodes
    beside them.

    Args:
        model: with inlined functions and known shapes.
        bits: of the activations that the plan can have.
    """
    namer = Namer(model)
    for node in list(model.graph):
        if is_op(node, *_OF_WEIGHTS) and constant(node.inputs[0]) is not None:
            _compute(model, node)
    for node in list(model.graph):
        _raise(model, node, namer)
    activations: dict[str, Grid] = {}
    for node in list(model.graph):
        pair = pair_before(node)
        if (
            pair is None
            or pair[1].bits != bits
            or any(u.node.graph is not model.graph for u in node.outputs[0].uses())
        ):
            continue
        if done := drop_pair(node, namer, clamp_inputs=False):
            activations.setdefault(*done)  # of two grids in a row, the first rounds
    drop_unused(model)
    weights: dict[str, np.ndarray] = {}
    for node in list(model.graph):
        scale = _weight_scale(node)
        if scale is None or not all(_restorable(n, model.graph) for n in _consumers(node.outputs[0])):
            continue
        name = node.outputs[0].name or ""
        if not restore(model, node):
            continue
        for moved in _moved(model, model.graph.initializers[name]):
            weights[moved.name or ""] = scale
    grids = Grids(activations, weights)
    if not grids:
        return "", grids
    kept = counted(len(activations), "activation"), counted(len(weights), "constant")
    return f"scales of the model kept: {kept[0]}, {kept[1]}", grids


def _raise(model: ir.Model, node: ir.Node, namer: Namer) -> None:
    """Move a DequantizeLinear up past moves of integers, which tf2onnx writes between it and its Q."""
    while is_op(node, "DequantizeLinear") and not node.outputs[0].is_graph_output():
        moved, scale = node.inputs[0], constant(node.inputs[1])
        move = moved.producer() if moved is not None else None
        if moved is None or move is None or scale is None or scale.size != 1:
            return
        if not is_op(move, *Q_MOVES_UP_THROUGH) or sole_consumer(moved) is not node or len(move.outputs) > 1:
            return
        source, old = move.inputs[0], node.outputs[0]
        name = namer(f"{moved.name}_DequantizeLinear")
        above = new_node(
            "DequantizeLinear", [source, *node.inputs[1:]], name=name, outputs=[namer(f"{name}_y")]
        )
        above.outputs[0].type = old.type
        above.outputs[0].shape = source.shape if source is not None else None
        model.graph.insert_before(move, above)
        move.replace_input_with(0, above.outputs[0])
        moved.type = old.type
        old.replace_all_uses_with(moved)
        model.graph.remove(node, safe=True)
        node = above


def _weight_scale(node: ir.Node) -> np.ndarray | None:
    """Return the scale [] or [C] of a DequantizeLinear of a constant of 8 bits or an int32 bias."""
    if not is_op(node, "DequantizeLinear") or node.attributes.get("block_size") is not None:
        return None
    stored, scale = constant(node.inputs[0]), constant(node.inputs[1])
    if stored is None or scale is None or stored.dtype.name not in _WEIGHT_TYPES or scale.dtype != np.float32:
        return None
    return scale.reshape(()) if scale.size == 1 else scale.reshape(-1) if scale.ndim == 1 else None


def _consumers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the consumers of a constant, past the moves of it."""
    for use in value.uses():
        if is_op(use.node, *_MOVES):
            yield from _consumers(use.node.outputs[0])
        else:
            yield use.node


def _restorable(node: ir.Node, graph: ir.Graph) -> bool:
    """Return whether a node is in the main graph, and no Q or DQ of an activation is left around it."""
    rule = OPS.get(node.op_type)
    if rule is None or node.graph is not graph or rule.role is Role.RECURRENT or is_op(node, *_QUANTIZERS):
        return False
    before = [v.producer() for v in node.inputs if v is not None]
    after = [use.node for v in node.outputs for use in v.uses()]
    if any(is_op(n, "DequantizeLinear") and constant(n.inputs[0]) is None for n in before if n is not None):
        return False
    return not any(is_op(n, *_QUANTIZERS) for n in after)


def _moved(model: ir.Model, value: ir.Value) -> Iterator[ir.Value]:
    """Yield a restored constant and what the moves of it give, computed."""
    yield value
    for use in list(value.uses()):
        if is_op(use.node, *_MOVES) and use.node.graph is model.graph:
            name = use.node.outputs[0].name or ""
            if _compute(model, use.node):
                yield from _moved(model, model.graph.initializers[name])


def _compute(model: ir.Model, node: ir.Node) -> bool:
    """Replace a node of constants by its result."""
    arrays = [a for v in node.inputs if v is not None and (a := constant(v)) is not None]
    old = node.outputs[0]
    if old.is_graph_output() or len(arrays) < sum(v is not None for v in node.inputs):
        return False
    result = evaluate(node, arrays, max(opset_of(model), _EVALUATED_AS))
    if result is None:
        return False
    name = old.name or ""
    old.name = f"{name}_computed"
    old.replace_all_uses_with(add_initializer(model.graph, name, result))
    model.graph.remove(node, safe=True)
    return True
