"""Fold constants: moved weights, weights that are computed, and chains that compute shapes and pads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from qtool.graph.edit import add_initializer
from qtool.graph.view import attribute_int, constant, float_constant, is_op, opset_of
from qtool.tables.ops import EXACT_ON_CONSTANTS, FLOAT_ON_CONSTANTS, INTEGER_ON_CONSTANTS

# The most that a fold may add to the file: an Expand of a scalar to gigabytes stays an Expand.
_GROWTH_BYTES = 4096
# Types that weights are stored in as 8 bits or fewer, or as 16-bit integers: what restores them stays.
_STORED_BITS = 16
_UNKNOWN = -1  # the length of an axis that is not known


def fold_constants(model: ir.Model) -> str:
    """Replace a node whose inputs are all constants by its result: a weight or shape that is then visible.

    1. Moves, comparisons and integer arithmetic are exact. Arithmetic on float32 is exact to rounding, as the
       runtime's own at load; only finite results are kept, at most twice as large together as all constants.
    2. A Shape is a constant where inference knows all axes, or those that a Gather or Slice picks.
    3. A Cast or CastLike is computed, also of float16 weights. Weights that are stored as integers stay as
       they are in the file: they are quantized already.
    """
    tensors = [v.const_value for g in model.graphs() for v in g.initializers.values()]
    room = 2 * sum(t.nbytes for t in tensors if t is not None)
    folded = 0
    for node in list(model.graph.all_nodes()):
        if len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            continue
        _name_type(node)
        arrays = _operands(node)
        if arrays is None or not isinstance(node.graph, ir.Graph) or not _computable(node, arrays):
            continue
        result = _computed(node, arrays, opset_of(model), room)
        if result is None:
            continue
        room -= result.nbytes if _is_float_arithmetic(node) else 0
        old = node.outputs[0]
        name = old.name or ""
        old.name = f"{name}_computed"
        old.replace_all_uses_with(add_initializer(node.graph, name, result))
        node.graph.remove(node, safe=True)
        folded += 1
    return f"{folded} operations on constants computed" if folded else ""


def evaluate(node: ir.Node, arrays: Sequence[np.ndarray], opset: int) -> np.ndarray | None:
    """Return the result of a node on arrays, one an input that it has; None where it can't be computed.

    By onnx.reference, in the node's own types.
    """
    proto = ir.to_proto(node)
    feeds = dict(zip((v.name or "" for v in node.inputs if v is not None), arrays, strict=True))
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [onnx.helper.make_value_info(k, onnx.TypeProto()) for k in feeds],
        [onnx.helper.make_value_info(proto.output[0], onnx.TypeProto())],
    )
    try:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        with np.errstate(all="ignore"):
            return np.asarray(next(iter(ReferenceEvaluator(model).run(None, feeds))))
    except Exception:  # the reference lacks this form of the op; the runtime will fold it at load
        return None


def _name_type(node: ir.Node) -> None:
    """Make a Cast of a CastLike whose type is known: the other value need not be there for it."""
    like = node.inputs[1] if is_op(node, "CastLike") else None
    if like is not None and like.dtype is not None:
        node.op_type = "Cast"
        node.attributes.add(ir.AttrInt64("to", like.dtype))
        node.resize_inputs(1)


def _operands(node: ir.Node) -> list[np.ndarray] | None:
    """Return the arrays of a node's inputs, in order; None where one is not known."""
    values = [v for v in node.inputs if v is not None]
    if is_op(node, "Shape", "Size"):
        lengths = _lengths(values[0]) if values else None
        return None if lengths is None or _UNKNOWN in lengths else [lengths]
    arrays = [constant(v) for v in values]
    shaped = values[0].producer() if values else None
    if is_op(node, "Gather", "Slice") and shaped is not None and is_op(shaped, "Shape"):
        arrays[0] = _picked(shaped)
    if any(a is None or a.dtype.kind in "OSU" for a in arrays):
        return None
    return [a for a in arrays if a is not None]


def _lengths(value: ir.Value | None) -> np.ndarray | None:
    """Return the shape of a value as int64, -1 for an unknown axis; None where nothing is certain.

    A graph's output declares a shape that the runtime does not enforce.
    """
    if value is None or value.shape is None or value.is_graph_output():
        return None
    return np.array([d if isinstance(d, int) else _UNKNOWN for d in value.shape], np.int64)


def _picked(shape: ir.Node) -> np.ndarray | None:
    """Return the result of a Shape, -1 for an unknown axis."""
    lengths = _lengths(shape.inputs[0])
    if lengths is None:
        return None
    end = shape.attributes.get("end")
    return lengths[attribute_int(shape, "start", 0) : None if end is None else end.as_int()]


def _is_float_arithmetic(node: ir.Node) -> bool:
    return is_op(node, *FLOAT_ON_CONSTANTS) and node.outputs[0].dtype not in _integers()


@cache
def _integers() -> frozenset[ir.DataType]:
    return frozenset(d for d in ir.DataType if d.is_integer() or d == ir.DataType.BOOL)


def _computable(node: ir.Node, arrays: Sequence[np.ndarray]) -> bool:
    """Return whether numpy and the runtime give the same result, by the tables in tables/ops.py."""
    if is_op(node, "Cast"):
        return _castable(node, arrays[0])
    if is_op(node, *EXACT_ON_CONSTANTS):
        return bool(arrays)
    if is_op(node, *INTEGER_ON_CONSTANTS) and all(a.dtype.kind in "iub" for a in arrays):
        # Numpy rounds quotients down, the runtime towards zero.
        counts = not is_op(node, "Div", "Mod") or ((arrays[0] >= 0).all() and (arrays[1] > 0).all())
        return bool(arrays) and bool(counts)
    return is_op(node, *FLOAT_ON_CONSTANTS) and float_constant(node.inputs[0]) is not None


def _castable(node: ir.Node, array: np.ndarray) -> bool:
    source, to = node.inputs[0], node.attributes.get("to")
    if source is None or source.dtype is None or to is None:
        return False
    small = source.dtype.bitwidth <= _STORED_BITS
    if small and source.dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.BOOL):
        return False
    kind = ir.DataType(to.as_int())
    if kind.is_integer() and array.dtype.kind not in "iub":  # the rest is undefined
        limits = np.iinfo(kind.numpy())
        return bool(np.isfinite(array).all() and ((array >= limits.min) & (array < limits.max)).all())
    return kind.is_integer() or kind.bitwidth >= _STORED_BITS


def _computed(node: ir.Node, arrays: Sequence[np.ndarray], opset: int, room: int) -> np.ndarray | None:
    """Return the result of a node, unless it is too large, infinite or depends on an unknown length."""
    if is_op(node, "Shape"):
        return _picked(node)
    if is_op(node, "Size"):
        return np.array(math.prod(int(n) for n in arrays[0]), np.int64)
    arithmetic = _is_float_arithmetic(node)
    # float16 weights become float32.
    most = room if arithmetic else _GROWTH_BYTES + sum(a.nbytes for a in arrays) * (1 + is_op(node, "Cast"))
    if result_bytes(node, arrays) > most:
        return None
    result = evaluate(node, arrays, opset)
    if result is None or result.nbytes > most:
        return None
    if arithmetic and (result.dtype != np.float32 or not np.isfinite(result).all()):
        return None
    of_shape = is_op(node, "Gather", "Slice") and constant(node.inputs[0]) is None
    return None if of_shape and (result == _UNKNOWN).any() else result


def result_bytes(node: ir.Node, arrays: Sequence[np.ndarray]) -> float:
    """Return the most bytes of a result before it is computed; infinite where the inputs are invalid."""
    shape, size = node.outputs[0].shape, max(arrays[0].itemsize, 4)
    if shape is not None and shape.is_static():
        return size * math.prod(int(d) for d in shape.numpy())
    sizes = [a.size for a in arrays]
    try:
        match node.op_type:
            case "Expand":
                elements = math.prod(np.broadcast_shapes(arrays[0].shape, tuple(int(n) for n in arrays[1])))
            case "Tile":
                elements = sizes[0] * math.prod(int(n) for n in arrays[1])
            case "ConstantOfShape":
                elements = math.prod(int(n) for n in arrays[0])
            case "Range":
                elements = math.ceil(abs((float(arrays[1]) - float(arrays[0])) / float(arrays[2])))
            case "Gather":
                elements = sizes[1] * sizes[0] // max(arrays[0].shape[attribute_int(node, "axis", 0)], 1)
            case "MatMul":
                elements = sizes[0] * sizes[1]
            case "Concat":
                elements = sum(sizes)
            case _ if node.op_type in EXACT_ON_CONSTANTS and node.op_type != "Where":
                elements = sum(sizes)
            case _:
                elements = math.prod(np.broadcast_shapes(*(a.shape for a in arrays)))
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError):
        return math.inf
    return size * elements
