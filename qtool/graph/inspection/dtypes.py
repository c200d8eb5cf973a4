"""The element type of every value: as declared, else as its op's schema implies.

Exporters declare the types of a graph's inputs and outputs, and seldom of inner values. The schemas determine
those. Shape inference would too, but it needs the data of large models and ends at the first unknown op.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import onnx
import onnx_ir as ir

from qtool.graph.inspection.ops import QUANTIZED_OPS
from qtool.graph.inspection.walk import Walk, nested_graphs
from qtool.graph.view import is_op, op_key

_TENSOR = re.compile(r"tensor\((\w+)\)")
_ONNX_NAMES = {"float": ir.DataType.FLOAT, "double": ir.DataType.DOUBLE}
# Names that differ from onnx's: 'float' and 'double' do not tell their width.
_OUR_NAMES = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}

# Attributes that set the output's type, whatever the inputs.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")
# The type without any of them, and without a typed input.
_DEFAULTS = {
    "QuantizeLinear": ir.DataType.UINT8,
    "ConstantOfShape": ir.DataType.FLOAT,
    "RandomNormal": ir.DataType.FLOAT,
    "RandomUniform": ir.DataType.FLOAT,
    "Multinomial": ir.DataType.INT32,
    "HannWindow": ir.DataType.FLOAT,
    "HammingWindow": ir.DataType.FLOAT,
    "BlackmanWindow": ir.DataType.FLOAT,
}
_CONSTANT_ATTRIBUTES = {
    "value_float": ir.DataType.FLOAT,
    "value_floats": ir.DataType.FLOAT,
    "value_int": ir.DataType.INT64,
    "value_ints": ir.DataType.INT64,
    "value_string": ir.DataType.STRING,
    "value_strings": ir.DataType.STRING,
}


def dtype_name(dtype: ir.DataType | None) -> str:
    """Return the name of a type for users: 'float32', 'int8', 'unknown'."""
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return "unknown"
    return _OUR_NAMES.get(dtype, dtype.name.lower())


def bits(dtype: ir.DataType | None) -> int:
    """Return the bits of an element; 0 where it has no fixed width, or an unknown one."""
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return 0
    return int(dtype.bitwidth)


def is_float(dtype: ir.DataType | None) -> bool:
    """Return whether a type is a float of any width."""
    return dtype is not None and dtype.is_floating_point()


def is_small_integer(dtype: ir.DataType | None) -> bool:
    """Return whether a type is an integer of at most 8 bits; booleans are not."""
    return dtype is not None and dtype.is_integer() and 0 < bits(dtype) <= 8


@dataclass
class Dtypes:
    """The known types of a model's values."""

    types: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    stands_for: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def of(self, value: ir.Value | None) -> ir.DataType | None:
        """Return a value's type; for a function's inputs and a call's outputs, that of the passed value."""
        for _ in range(len(self.stands_for) + 1):  # a function that calls itself would have no end
            if value is None or value in self.types:
                break
            value = self.stands_for.get(value)
        return None if value is None else self.types.get(value)

    def learn(self, value: ir.Value, dtype: ir.DataType | None) -> None:
        """Set the type of a value; a declared type takes precedence over an implied one."""
        declared = value.dtype
        chosen = dtype if declared in (None, ir.DataType.UNDEFINED) else declared
        if chosen not in (None, ir.DataType.UNDEFINED):
            self.types[value] = chosen


def infer_dtypes(model: ir.Model, walked: Walk) -> Dtypes:
    """Return the declared or implied type of every value."""
    dtypes = Dtypes(stands_for=walked.stands_for)
    for graph in walked.graphs:
        for value in graph.inputs:
            dtypes.learn(value, None)
        for value in graph.initializers.values():
            dtypes.learn(value, None if value.const_value is None else value.const_value.dtype)
    for node in walked.nodes:
        version = node.version or model.opset_imports.get(node.domain) or 1
        for index, value in enumerate(node.outputs):
            if value not in walked.stands_for:
                dtypes.learn(value, _output(node, index, version, dtypes))
    return dtypes


def _output(node: ir.Node, index: int, version: int, dtypes: Dtypes) -> ir.DataType | None:
    """Return the type of an output by its node's graphs, attributes, schema or inputs."""
    inner = next(nested_graphs(node), None)
    if inner is not None:
        # A Loop's body returns whether to go on before what the Loop returns.
        place = index + is_op(node, "Loop")
        return dtypes.of(inner.outputs[place]) if place < len(inner.outputs) else None
    inputs = [dtypes.of(v) for v in node.inputs]
    row = QUANTIZED_OPS.get(op_key(node))
    by_row = (inputs[i] for i in (row.typed_by if row else ()) if i < len(inputs))
    return (
        _by_attribute(node)
        or next((t for t in by_row if t is not None), None)
        or _DEFAULTS.get(op_key(node))
        or _by_schema(node, index, version, inputs)
        or next((t for t in inputs if is_float(t)), None)
        or next((t for t in inputs if t is not None), None)
    )


def _by_attribute(node: ir.Node) -> ir.DataType | None:
    attributes = {name: a for name, a in node.attributes.items() if not a.is_ref()}
    if is_op(node, "Constant", "ConstantOfShape") and "value" in attributes:
        return attributes["value"].as_tensor().dtype
    if is_op(node, "Constant"):
        return next((t for name, t in _CONSTANT_ATTRIBUTES.items() if name in attributes), None)
    for name in _TYPE_ATTRIBUTES:
        # Before opset 6, Cast wrote it as a string. 0 is 'undefined': the default of output_dtype.
        if name in attributes and attributes[name].type == ir.AttributeType.INT and attributes[name].as_int():
            return _numbered(attributes[name].as_int())
    return None


def _numbered(number: int) -> ir.DataType | None:
    try:
        return ir.DataType(number)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Signature:
    """The types of a schema: a name for each input and output, and the types that a name allows."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: dict[str, frozenset[ir.DataType]]


def _by_schema(
    node: ir.Node, index: int, version: int, inputs: list[ir.DataType | None]
) -> ir.DataType | None:
    """Return the only type that an output may have, or that of an input with the same type variable."""
    signature = _signature(node.op_type, node.domain, version)
    if signature is None or not signature.outputs:
        return None
    name = signature.outputs[min(index, len(signature.outputs) - 1)]
    allowed = signature.allowed.get(name) or parse_types([name])
    if len(allowed) == 1:
        return next(iter(allowed))
    for place, dtype in enumerate(inputs):
        # Past the last formal input it is variadic.
        if dtype is not None and signature.inputs[min(place, len(signature.inputs) - 1)] == name:
            return dtype
    return None


@cache
def _signature(op: str, domain: str, version: int) -> _Signature | None:
    try:
        schema = onnx.defs.get_schema(op, version, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None
    return _Signature(
        tuple(i.type_str for i in schema.inputs),
        tuple(o.type_str for o in schema.outputs),
        {c.type_param_str: parse_types(c.allowed_type_strs) for c in schema.type_constraints},
    )


def parse_types(texts: Sequence[str]) -> frozenset[ir.DataType]:
    """Return the element types of onnx's notation: 'tensor(float)', 'seq(tensor(int64))'."""
    names = [m.group(1) for text in texts if (m := _TENSOR.search(text))]
    return frozenset(_ONNX_NAMES.get(n) or ir.DataType[n.upper()] for n in names)
