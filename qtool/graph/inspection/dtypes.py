"""The element type of every value: as declared, else as its op's schema implies.

Exporters declare the types of a graph's inputs and outputs, and seldom of what lies between. The
schemas tell the rest. Shape inference would too, but needs the data of large models and ends at the
first op that it does not know.
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
# Our names differ from onnx's where that is not as wide as it sounds.
_OUR_NAMES = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}

# Attributes that name the output's type, over all that inputs tell.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")
# What it is when none of them is there, and no input tells.
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
    """What users call a type: 'float32', 'int8', 'unknown'."""
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return "unknown"
    return _OUR_NAMES.get(dtype, dtype.name.lower())


def bits(dtype: ir.DataType | None) -> int:
    """The bits of an element; 0 where it has no fixed width, or none is known."""
    if dtype is None or dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return 0
    return int(dtype.bitwidth)


def is_float(dtype: ir.DataType | None) -> bool:
    """Whether values of it are floats, of whatever width."""
    return dtype is not None and dtype.is_floating_point()


def is_small_integer(dtype: ir.DataType | None) -> bool:
    """Whether values of it are integers of 8 bits or fewer; booleans are none."""
    return dtype is not None and dtype.is_integer() and 0 < bits(dtype) <= 8


@dataclass
class Dtypes:
    """The types of a model's values, as far as they are known."""

    known: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    stands_for: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def of(self, value: ir.Value | None) -> ir.DataType | None:
        """A value's type; that of what is passed, for a function's inputs and a call's outputs."""
        for _ in range(len(self.stands_for) + 1):  # a function that calls itself would have no end
            if value is None or value in self.known:
                break
            value = self.stands_for.get(value)
        return None if value is None else self.known.get(value)

    def learn(self, value: ir.Value, dtype: ir.DataType | None) -> None:
        """What is declared holds over what is implied."""
        declared = value.dtype
        found = dtype if declared in (None, ir.DataType.UNDEFINED) else declared
        if found not in (None, ir.DataType.UNDEFINED):
            self.known[value] = found


def infer_dtypes(model: ir.Model, walked: Walk) -> Dtypes:
    """The type of every value that is declared or implied."""
    found = Dtypes(stands_for=walked.stands_for)
    for graph in walked.graphs:
        for value in graph.inputs:
            found.learn(value, None)
        for value in graph.initializers.values():
            found.learn(value, None if value.const_value is None else value.const_value.dtype)
    for node in walked.nodes:
        version = node.version or model.opset_imports.get(node.domain) or 1
        for index, value in enumerate(node.outputs):
            if value not in walked.stands_for:
                found.learn(value, _output(node, index, version, found))
    return found


def _output(node: ir.Node, index: int, version: int, known: Dtypes) -> ir.DataType | None:
    """The type that an output has by what the node says, by its graphs, its schema, or its inputs."""
    inner = next(nested_graphs(node), None)
    if inner is not None:
        # A Loop's body returns whether to go on before what the Loop returns.
        place = index + is_op(node, "Loop")
        return known.of(inner.outputs[place]) if place < len(inner.outputs) else None
    inputs = [known.of(v) for v in node.inputs]
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
    given = {name: a for name, a in node.attributes.items() if not a.is_ref()}
    if is_op(node, "Constant", "ConstantOfShape") and "value" in given:
        return given["value"].as_tensor().dtype
    if is_op(node, "Constant"):
        return next((t for name, t in _CONSTANT_ATTRIBUTES.items() if name in given), None)
    for name in _TYPE_ATTRIBUTES:
        # Before opset 6, Cast wrote it as a string. 0 is 'undefined': the default of output_dtype.
        if name in given and given[name].type == ir.AttributeType.INT and given[name].as_int():
            return _numbered(given[name].as_int())
    return None


def _numbered(number: int) -> ir.DataType | None:
    try:
        return ir.DataType(number)
    except ValueError:
        return None


@dataclass(frozen=True)
class _Signature:
    """What a schema says of types: a name for each input and output, and what a name may stand for."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: dict[str, frozenset[ir.DataType]]


def _by_schema(
    node: ir.Node, index: int, version: int, inputs: list[ir.DataType | None]
) -> ir.DataType | None:
    """The one type that an output may have, or that of an input which must have the same."""
    signature = _signature(node.op_type, node.domain, version)
    if signature is None or not signature.outputs:
        return None
    name = signature.outputs[min(index, len(signature.outputs) - 1)]
    allowed = signature.allowed.get(name) or _parse([name])
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
        {c.type_param_str: _parse(c.allowed_type_strs) for c in schema.type_constraints},
    )


def _parse(texts: Sequence[str]) -> frozenset[ir.DataType]:
    """The element types in onnx's notation: 'tensor(float)', 'seq(tensor(int64))'."""
    names = [m.group(1) for text in texts if (m := _TENSOR.search(text))]
    return frozenset(_ONNX_NAMES.get(n) or ir.DataType[n.upper()] for n in names)
