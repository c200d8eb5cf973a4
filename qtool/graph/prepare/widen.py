"""Compute in float32 what a model computes in float16 or float64, as every quantized form needs it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from qtool.errors import printable
from qtool.graph.edit import Namer, insert_after_value, new_node, owner, take_output_name
from qtool.graph.inspection.dtypes import dtype_name
from qtool.graph.prepare.shapes import light
from qtool.graph.view import is_op, op_key
from qtool.tables.float16 import CONTRIB
from qtool.tables.ops import OPS

_FLOAT = ir.DataType.FLOAT
_OTHERS = (ir.DataType.FLOAT16, ir.DataType.DOUBLE)
# Attributes that name the type of an output.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")


def widen_floats(model: ir.Model) -> str:
    """Make every float16 or float64 value float32, where an op with weights computes in that type.

    1. From float16 this is exact, and the results have less rounding. From float64 a weight is rounded to
       float32; one beyond its range keeps the whole model in float64.
    2. Inputs and outputs of the model keep their types, behind Casts. So do those of ops that are not known.
    3. A model with sequences or optionals of the type, and one that would be invalid, stays as it is.
    """
    notes = []
    for dtype in _OTHERS:
        if not any(_computes(node, dtype) for node in model.graph.all_nodes()):
            continue
        name = dtype_name(dtype)
        clone = model.clone()
        if reason := _obstacle(clone, dtype) or _widened(clone, dtype):
            notes.append(f"{name} kept: {reason}")
            continue
        model.graph = clone.graph
        notes.append(f"{name} is computed in float32; inputs and outputs keep their types")
    return "; ".join(notes)


def _computes(node: ir.Node, dtype: ir.DataType) -> bool:
    """Return whether a node has a weight of a type."""
    rule = OPS.get(node.op_type)
    if rule is None or not is_op(node, node.op_type):
        return False
    return any(i < len(node.inputs) and _is(node.inputs[i], dtype) for i in rule.weight)


def _is(value: ir.Value | None, dtype: ir.DataType) -> bool:
    return value is not None and value.dtype == dtype


def _values(model: ir.Model) -> list[ir.Value]:
    made = [v for node in model.graph.all_nodes() for v in node.outputs]
    return made + [v for g in model.graphs() for v in (*g.inputs, *g.initializers.values())]


def _obstacle(model: ir.Model, dtype: ir.DataType) -> str:
    """Return the reason why the values of a type must keep it; '' where they need not."""
    for value in _values(model):
        if value.type is None and value.uses():
            return f"the type of '{value.name}' is not known"
        if _is(value, dtype) and not isinstance(value.type, ir.TensorType):
            return f"'{value.name}' is a sequence or optional"
        if _is(value, dtype) and value.const_value is not None and dtype == ir.DataType.DOUBLE:
            array = value.const_value.numpy()
            if (np.abs(array[np.isfinite(array)]) > np.finfo(np.float32).max).any():
                return f"'{value.name}' is beyond the range of float32"
    return ""


def _is_fixed(node: ir.Node) -> bool:
    """Return whether an op may take one type only: it is not known, or reads the bits of its input."""
    return is_op(node, "BitCast") or not (is_op(node, node.op_type) or op_key(node) in CONTRIB)


def _widened(model: ir.Model, dtype: ir.DataType) -> str:
    """Make the values of a type float32, in place; return why that is invalid, '' if it is not."""
    namer, nodes = Namer(model), list(model.graph.all_nodes())
    fixed = {v for node in nodes if _is_fixed(node) for v in node.outputs} | set(model.graph.inputs)
    fixed |= {v for v in model.graph.initializers.values() if v.is_graph_output()}
    returned = [v for v in dict.fromkeys(model.graph.outputs) if _is(v, dtype) and v not in fixed]
    back = {v for node in nodes if _is_fixed(node) for v in node.inputs if v is not None and _is(v, dtype)}
    for value in _values(model):
        if not _is(value, dtype):
            continue
        if value in fixed:
            _cast(value, _FLOAT, [u for u in value.uses() if not _is_fixed(u.node)], namer)
        else:
            _retype(value)
    for value in back - fixed:
        _cast(value, dtype, [u for u in value.uses() if _is_fixed(u.node)], namer)
    for value in returned:
        made = _cast(value, dtype, [], namer)
        take_output_name(value, made, namer)
        made.type = ir.TensorType(dtype)
    for node in nodes:
        if not _is_fixed(node):
            _retype_attributes(node, dtype)
    try:
        onnx.shape_inference.infer_shapes(light(model), check_type=True)
    except Exception as error:  # InferenceError, or protobuf's own
        return printable(str(error), 120)
    return ""


def _cast(value: ir.Value, to: ir.DataType, uses: Iterable[tuple[ir.Node, int]], namer: Namer) -> ir.Value:
    """Add a Cast behind the producer of a value, for some of its consumers."""
    word = dtype_name(to)
    name, output = namer(f"{value.name}_to_{word}"), namer(f"{value.name}_{word}")
    cast = new_node("Cast", [value], name=name, outputs=[output], attributes={"to": ir.AttrInt64("to", to)})
    made = cast.outputs[0]
    made.type, made.shape = ir.TensorType(to), value.shape
    insert_after_value(value, [cast], owner(value))
    for node, index in uses:
        node.replace_input_with(index, made)
    return made


def _retype(value: ir.Value) -> None:
    value.type = ir.TensorType(_FLOAT)
    if value.const_value is not None:
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)


def _retype_attributes(node: ir.Node, dtype: ir.DataType) -> None:
    """Set float32 in the attributes that name a type or are tensors of it."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == dtype:
            array = attribute.as_tensor().numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))
        typed = name in _TYPE_ATTRIBUTES and attribute.type == ir.AttributeType.INT
        if typed and attribute.as_int() == dtype:
            node.attributes[name] = ir.AttrInt64(name, _FLOAT)
