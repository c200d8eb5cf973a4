"""Restore the floats of a model that is already quantized, so that it can be quantized again (--requantize).

The rounding of its weights remains; its activations are no longer rounded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.errors import counted
from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, take_over
from qtool.graph.prepare.folding import evaluate, result_bytes
from qtool.graph.view import constant, is_op, opset_of
from qtool.tables.ops import OPS

# Ops that restore weights in files of qtool and of other tools.
_RESTORING = ("DequantizeLinear", "Cast", "Sub", "Mul", "Reshape", "Slice", "Transpose")
# onnx.reference has DequantizeLinear from opset 19 on, where these ops accept all earlier forms.
_EVALUATED_AS = 21
# A weight of 4 bits becomes one of 32; a product of a column and a row may become anything.
_MOST_GROWTH, _ROOM_BYTES = 8, 4096
_REAL = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def restore_floats(model: ir.Model) -> str:
    """Compute weights that are stored in integers or float16; drop QuantizeLinear -> DequantizeLinear.

    A pair whose range starts at zero replaces a Relu or Clip that the quantizer folded into it: a Clip is
    inserted, unless the input can't be negative. Integer operators (QLinearConv, MatMulInteger, ..) have no
    float form here and stay.
    """
    namer = Namer(model)
    pairs = sum(_drop_pair(node, namer) for node in list(model.graph.all_nodes()))
    weights = sum(_restore(model, node) for node in list(model.graph.all_nodes()))
    if not pairs and not weights:
        return ""
    return f"restored to floats: {counted(weights, 'weight')}, {counted(pairs, 'activation')}"


def _drop_pair(node: ir.Node, namer: Namer) -> bool:
    """Connect a DequantizeLinear's consumers to the input of its QuantizeLinear."""
    made = node.inputs[0] if is_op(node, "DequantizeLinear") else None
    quantizer = made.producer() if made is not None else None
    if quantizer is None or not is_op(quantizer, "QuantizeLinear"):
        return False
    source = quantizer.inputs[0]
    scale = constant(quantizer.inputs[1])
    if source is None or scale is None or source.dtype != ir.DataType.FLOAT or scale.size != 1:
        return False
    old, graph = node.outputs[0], node.graph
    if old.is_graph_output() and (source.is_graph_input() or source.is_graph_output()):
        return False  # its name would be lost
    ceiling = _ceiling(quantizer, float(scale.reshape(-1)[0]))
    if ceiling and not _is_positive(source) and isinstance(graph, ir.Graph):
        bounds = [
            add_initializer(graph, namer(f"{old.name}_{word}"), np.asarray(x, np.float32))
            for word, x in (("low", 0.0), ("high", ceiling))
        ]
        clip = new_node(
            "Clip", [source, *bounds], name=namer(f"{old.name}_clip"), outputs=[namer(f"{old.name}_clipped")]
        )
        clip.outputs[0].type, clip.outputs[0].shape = old.type, old.shape
        insert_after_value(source, [clip], graph)
        source = clip.outputs[0]
    if old.is_graph_output():
        take_over(old, source, namer)
    else:
        old.replace_all_uses_with(source)
    return True


def _ceiling(quantizer: ir.Node, scale: float) -> float:
    """Return the largest value of a grid that begins at zero; 0 for other grids."""
    zero = constant(quantizer.inputs[2]) if len(quantizer.inputs) > 2 else None
    if zero is None or zero.size != 1:
        return 0.0
    limits = {d.name: np.iinfo(d) for d in map(np.dtype, ("uint8", "int8", "uint16", "int16"))}
    grid = limits.get(zero.dtype.name)
    if grid is None or int(zero.reshape(-1)[0]) != grid.min:
        return 0.0
    return scale * (grid.max - grid.min)


def _is_positive(value: ir.Value) -> bool:
    producer = value.producer()
    rule = OPS.get(producer.op_type) if producer is not None else None
    return is_op(producer, "Clip") or (rule is not None and rule.bounds[0] >= 0)


def _restore(model: ir.Model, node: ir.Node) -> bool:
    """Compute a node that only restores a constant."""
    graph = node.graph
    if not is_op(node, *_RESTORING) or len(node.outputs) != 1 or not isinstance(graph, ir.Graph):
        return False
    old = node.outputs[0]
    values = [v for v in node.inputs if v is not None]
    arrays = [a for v in values if (a := constant(v)) is not None]
    if old.is_graph_output() or not arrays or len(arrays) < len(values):
        return False
    if is_op(node, "Cast") and old.dtype not in _REAL:
        return False  # it casts indices, not a weight
    if result_bytes(node, arrays) > _ROOM_BYTES + _MOST_GROWTH * sum(a.nbytes for a in arrays):
        return False
    result = evaluate(node, arrays, max(opset_of(model), _EVALUATED_AS))
    if result is None:
        return False
    name = old.name or ""
    old.name = f"{name}_stored"
    old.replace_all_uses_with(add_initializer(graph, name, result))
    graph.remove(node, safe=True)
    return True
