"""Restore the floats of a model that is already quantized, so that it can be quantized again (--requantize).

The rounding of its weights remains; its activations are no longer rounded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.errors import counted
from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, replace_node, take_over
from qtool.graph.grids import Grid
from qtool.graph.prepare.folding import evaluate, result_bytes
from qtool.graph.view import attribute_int, constant, is_op, opset_of
from qtool.tables.ops import OPS, Role

# Ops that restore weights in files of qtool and of other tools.
_RESTORING = ("DequantizeLinear", "Cast", "Sub", "Mul", "Reshape", "Slice", "Transpose")
# Of these, the ones that restore each row of a table by itself.
_ELEMENTWISE = ("DequantizeLinear", "Cast", "Sub", "Mul")
# onnx.reference has DequantizeLinear from opset 19 on, where these ops accept all earlier forms.
_EVALUATED_AS = 21
# A weight of 4 bits becomes one of 32; a product of a column and a row may become anything.
_MOST_GROWTH, _ROOM_BYTES = 8, 4096
# Of values that are not negative, neither is the mean.
_MEANS = ("ReduceMean", "AveragePool", "GlobalAveragePool")
# The integers of activations.
_INTEGERS = frozenset({"uint8", "int8", "uint16", "int16"})
_REAL = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def restore_floats(model: ir.Model) -> str:
    """Compute weights that are stored in integers or float16; drop QuantizeLinear -> DequantizeLinear.

    A pair whose range starts at zero replaces a Relu or Clip that the quantizer folded into it: a Clip is
    inserted, unless the input can't be negative. Integer operators (QLinearConv, MatMulInteger, ..) have no
    float form here and stay.
    """
    namer = Namer(model)
    pairs = sum(drop_pair(node, namer) is not None for node in list(model.graph.all_nodes()))
    weights = sum(restore(model, node) for node in list(model.graph.all_nodes()))
    weights += sum(_restore_rows(model, node, namer) for node in list(model.graph.all_nodes()))
    if not pairs and not weights:
        return ""
    return f"restored to floats: {counted(weights, 'weight')}, {counted(pairs, 'activation')}"


def pair_before(node: ir.Node) -> tuple[ir.Node, Grid] | None:
    """Return the QuantizeLinear before a DequantizeLinear, and their grid: of one constant scale.

    A Clip of the integers may lie between them, as PyTorch writes it for a reduced range.
    """
    made = node.inputs[0] if is_op(node, "DequantizeLinear") else None
    quantizer = made.producer() if made is not None else None
    clip = quantizer if quantizer is not None and is_op(quantizer, "Clip") else None
    if clip is not None and clip.inputs[0] is not None:
        quantizer = clip.inputs[0].producer()
    if quantizer is None or not is_op(quantizer, "QuantizeLinear"):
        return None
    scale = constant(quantizer.inputs[1])
    zero = constant(quantizer.inputs[2]) if len(quantizer.inputs) > 2 else np.asarray(0, np.uint8)
    if (
        scale is None
        or zero is None
        or scale.size != 1
        or zero.size != 1
        or not float(scale.reshape(-1)[0]) > 0
    ):
        return None
    if zero.dtype.name not in _INTEGERS:
        return None
    limits = np.iinfo(zero.dtype.name)
    ends = [float(limits.min), float(limits.max)]
    for index in (0, 1) if clip is not None else ():
        bound = (
            constant(clip.inputs[1 + index]) if clip is not None and len(clip.inputs) > 1 + index else None
        )
        if bound is not None and bound.size == 1:
            ends[index] = float(np.clip(bound.reshape(-1)[0], limits.min, limits.max))
    step, middle = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
    return quantizer, Grid(step, (ends[0] - middle) * step, (ends[1] - middle) * step, limits.bits)


def drop_pair(node: ir.Node, namer: Namer, *, clamp_inputs: bool = True) -> tuple[str, Grid] | None:
    """Connect a DequantizeLinear's consumers to the input of its QuantizeLinear.

    Args:
        node: any.
        namer: of the model.
        clamp_inputs: write the clamp of a grid that starts at zero also on inputs of the model.

    Returns:
        The name of the value that they read now, and its grid; None where there is no such pair.
    """
    pair = pair_before(node)
    if pair is None:
        return None
    quantizer, grid = pair
    source = quantizer.inputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT:
        return None
    old, graph = node.outputs[0], node.graph
    if old.is_graph_output() and (source.is_graph_input() or source.is_graph_output()):
        return None  # its name would be lost
    clamps = clamp_inputs or not source.is_graph_input()
    if grid.lo == 0 and clamps and not _is_positive(source) and isinstance(graph, ir.Graph):
        bounds = [
            add_initializer(graph, namer(f"{old.name}_{word}"), np.asarray(x, np.float32))
            for word, x in (("low", 0.0), ("high", grid.hi))
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
    return source.name or "", grid


def _is_positive(value: ir.Value) -> bool:
    producer = value.producer()
    rule = OPS.get(producer.op_type) if producer is not None else None
    if producer is None or rule is None:
        return False
    if is_op(producer, "Clip") or rule.bounds[0] >= 0:
        return True
    source = producer.inputs[0]
    keeps = is_op(producer, *_MEANS) or (rule.role is Role.PASS and rule.data is not None)
    return keeps and source is not None and _is_positive(source)


def restore(model: ir.Model, node: ir.Node) -> bool:
    """Compute a node that only restores a constant."""
    graph = node.graph
    if not is_op(node, *_RESTORING) or len(node.outputs) != 1 or not isinstance(graph, ir.Graph):
        return False
    old = node.outputs[0]
    values = [v for v in node.inputs if v is not None]
    arrays = [a for v in values if (a := constant(v)) is not None]
    if old.is_graph_output() or not arrays or len(arrays) < len(values):
        return False
    result = _computed(model, node, arrays)
    if result is None:
        return False
    name = old.name or ""
    old.name = f"{name}_stored"
    old.replace_all_uses_with(add_initializer(graph, name, result))
    graph.remove(node, safe=True)
    return True


def _computed(model: ir.Model, node: ir.Node, arrays: list[np.ndarray]) -> np.ndarray | None:
    """Return the result of a node on constants; None if it is no weight, or too large."""
    if is_op(node, "Cast") and node.outputs[0].dtype not in _REAL:
        return None  # it casts indices, not a weight
    if result_bytes(node, arrays) > _ROOM_BYTES + _MOST_GROWTH * sum(a.nbytes for a in arrays):
        return None
    return evaluate(node, arrays, max(opset_of(model), _EVALUATED_AS))


def _restore_rows(model: ir.Model, node: ir.Node, namer: Namer) -> bool:
    """Compute a node on tables, and pick rows of the result: it restores rows that Gathers pick from them."""
    if not is_op(node, *_ELEMENTWISE) or not isinstance(node.graph, ir.Graph):
        return False
    arrays: list[np.ndarray] = []
    picked = dict[tuple[ir.Value | None, int, int], ir.Value]()  # indices, axes and rows -> a table
    for value in (v for v in node.inputs if v is not None):
        gather = value.producer()
        picks = gather is not None and is_op(gather, "Gather") and attribute_int(gather, "axis", 0) == 0
        source = gather.inputs[0] if gather is not None and picks else value
        array = constant(source)
        if (
            array is None
            or source is None
            or not (array.ndim if picks else array.size == 1 and array.ndim < 2)
        ):
            return False
        arrays.append(array)
        if gather is not None and picks:
            picked.setdefault((gather.inputs[1], array.ndim, len(array)), source)
    if len(picked) != 1 or (result := _computed(model, node, arrays)) is None:
        return False
    (((indices, _, _), source),) = picked.items()
    old = node.outputs[0]
    table = add_initializer(model.graph, namer(f"{source.name}_restored"), result)
    made = new_node(
        "Gather",
        [table, indices],
        name=namer(f"{node.name}_rows"),
        outputs=[namer(f"{old.name}_rows")],
        attributes={"axis": ir.AttrInt64("axis", 0)},
    )
    replace_node(node, [made], old, made.outputs[0], namer)
    return True
