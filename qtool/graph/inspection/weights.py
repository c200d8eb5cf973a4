"""The constants of a model, and which of them are weights.

A constant is an initializer, or a Constant node's tensor. It is a weight when

1. it has more than one element (a single number is a setting: an epsilon, a bound, a factor), and
2. it is of a float type, or of an integer type of 8 bits or fewer; and
3. some node reads it as a weight. Any node does, except
   a. through an input that the tables call a scale, a zero point or a setting (ops.py),
   b. to make floats of integers: Cast(q) * scale, (Cast(q) - zero_point) * scale, where q is a constant,
      rows gathered from one, or the result of an integer product; the scale may be gathered as well,
   c. to multiply the scale of a DynamicQuantizeLinear, which has the same effect.

Integers of more bits are weights only where the tables say so (an int32 bias, 16-bit weights under
DequantizeLinear), or where they are added to an integer product. Other constants (shapes, indices,
scales, zero points, masks) are no weights.

Not counted: numbers in attributes, as ai.onnx.ml's trees and scalers have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from qtool.graph.inspection.dtypes import bits, dtype_name, is_float, is_small_integer
from qtool.graph.inspection.model import Tensors
from qtool.graph.inspection.ops import (
    DYNAMIC_SCALE,
    PACKED_BITS,
    PICKING,
    QUANTIZED_OPS,
    RESTORING,
    SETTINGS,
)
from qtool.graph.inspection.walk import Walk, nested_graphs, own_int
from qtool.graph.view import is_op, op_key
from qtool.tables.ops import RANDOM


@dataclass
class Constants:
    """The constants of a model, and the values computed from them alone.

    Args:
        tensors: every constant; large ones may still lie in their external files.
        fixed: the constants and all values that are computed from them alone.
        stored_bits: a fixed value -> the bits of the stored numbers behind it, where those may be weights.
        integers: small integers that are constant or gathered, and the sums of integer products.
        unscaled: those integers cast to floats, before they are scaled.
    """

    tensors: dict[ir.Value, ir.TensorProtocol] = field(default_factory=dict)
    fixed: set[ir.Value] = field(default_factory=set)
    stored_bits: dict[ir.Value, int] = field(default_factory=dict)
    integers: set[ir.Value] = field(default_factory=set)
    unscaled: set[ir.Value] = field(default_factory=set)

    def depends_on_none_but(self, node: ir.Node) -> bool:
        """Return whether a node computes the same result from constants alone at every run."""
        if is_op(node, "Constant"):
            return True
        inputs = [v for v in node.inputs if v is not None]
        return (
            bool(inputs)
            and all(v in self.fixed for v in inputs)
            and not any(nested_graphs(node))
            and node.op_type not in RANDOM
        )

    def is_weight(self, value: ir.Value) -> bool:
        """Return whether a constant is a weight, by the rules above."""
        tensor = self.tensors[value]
        if tensor.size <= 1:
            return False
        uses = [(use.node, use.idx) for use in value.uses()]
        if is_float(tensor.dtype) or is_small_integer(tensor.dtype):
            return value.is_graph_output() or any(self._as_weight(value, *use) for use in uses)
        return any(self._as_wide_weight(value, *use) for use in uses)

    def _as_weight(self, value: ir.Value, node: ir.Node, slot: int) -> bool:
        row = QUANTIZED_OPS.get(op_key(node))
        if row is not None:
            return slot in row.weights
        if slot in SETTINGS.get(op_key(node), ()) or self._scales(value, node):
            return False
        if not is_op(node, *PICKING) or slot:
            return True
        picked = node.outputs[0]
        return not picked.uses() or not all(self._scales(picked, use.node) for use in picked.uses())

    def _as_wide_weight(self, value: ir.Value, node: ir.Node, slot: int) -> bool:
        row = QUANTIZED_OPS.get(op_key(node))
        added = is_op(node, "Add") and any(v in self.integers for v in node.inputs if v is not value)
        return added or (row is not None and slot in row.wide)

    def _scales(self, value: ir.Value, node: ir.Node) -> bool:
        """Return whether a node uses a value as scale or zero point, to make floats of integers."""
        others = [v for v in node.inputs if v is not None and v is not value]
        if is_op(node, *RESTORING) and any(v in self.unscaled for v in others):
            return True
        return is_op(node, "Mul") and any(_is_dynamic_scale(v) for v in others)


def find_constants(walked: Walk) -> Constants:
    """Return the constants of the graphs, and the values computed from them."""
    constants = Constants()
    for value, tensor in _tensors(walked):
        constants.tensors[value] = tensor
        constants.fixed.add(value)
        if tensor.size > 1 and (is_float(tensor.dtype) or is_small_integer(tensor.dtype)):
            packed = _packed(value, tensor)
            constants.stored_bits[value] = packed.bits if packed else bits(tensor.dtype)
            constants.integers |= {value} if is_small_integer(tensor.dtype) else set()
    for node in walked.nodes:
        _follow_integers(node, constants)
        if not constants.depends_on_none_but(node):
            continue
        constants.fixed.update(node.outputs)
        row = QUANTIZED_OPS.get(op_key(node))
        data = node.inputs if row is None else [node.inputs[i] for i in row.weights if i < len(node.inputs)]
        behind = [constants.stored_bits[v] for v in data if v in constants.stored_bits]
        if behind and not is_op(node, "Constant"):
            constants.stored_bits.update(dict.fromkeys(node.outputs, min(behind)))
    return constants


def _follow_integers(node: ir.Node, constants: Constants) -> None:
    """Follow integers through a node on their way to floats."""
    row = QUANTIZED_OPS.get(op_key(node))
    first = node.inputs[0] if node.inputs else None
    is_sum = is_op(node, "Add") and any(v in constants.integers for v in node.inputs)
    if is_sum or (row is not None and row.sums) or (is_op(node, *PICKING) and first in constants.integers):
        constants.integers.update(node.outputs)
    elif (is_op(node, "Cast") and first in constants.integers) or (
        is_op(node, "Sub") and first in constants.unscaled
    ):
        constants.unscaled.update(node.outputs)


def count_constants(constants: Constants) -> tuple[dict[str, Tensors], dict[str, Tensors]]:
    """Return the weights, and the other constants, by type; the largest first."""
    weights: dict[str, Tensors] = {}
    others: dict[str, Tensors] = {}
    for value, tensor in constants.tensors.items():
        is_weight = constants.is_weight(value)
        one = (_packed(value, tensor) if is_weight else None) or _Size(
            dtype_name(tensor.dtype), bits(tensor.dtype), tensor.size
        )
        table = weights if is_weight else others
        sum_ = table.get(one.name, Tensors(one.bits))
        table[one.name] = replace(
            sum_,
            tensors=sum_.tensors + 1,
            elements=sum_.elements + one.elements,
            bytes=sum_.bytes + tensor.nbytes,
        )
    return _largest_first(weights), _largest_first(others)


def _largest_first(table: dict[str, Tensors]) -> dict[str, Tensors]:
    return dict(sorted(table.items(), key=lambda row: (-row[1].bytes, row[0])))


def _tensors(walked: Walk) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    for graph in walked.graphs:
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value
    for node in walked.nodes:
        if is_op(node, "Constant"):
            tensor = _of_constant(node)
            if tensor is not None:
                yield node.outputs[0], tensor


def _of_constant(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the tensor of a Constant node; None for strings."""
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue
        match name:
            case "value":
                return attribute.as_tensor()
            case "value_float" | "value_floats":
                return ir.tensor(np.asarray(attribute.value, np.float32))
            case "value_int" | "value_ints":
                return ir.tensor(np.asarray(attribute.value, np.int64))
    return None


@dataclass(frozen=True)
class _Size:
    """The unpacked size of a tensor."""

    name: str
    bits: int
    elements: int


def _packed(value: ir.Value, tensor: ir.TensorProtocol) -> _Size | None:
    """Return the size of a tensor with several numbers a byte; None for any other."""
    if tensor.dtype != ir.DataType.UINT8:
        return None
    for use in value.uses():
        row = QUANTIZED_OPS.get(op_key(use.node))
        if row is None or not row.packed or use.idx not in row.weights:
            continue
        width = own_int(use.node, row.packed, PACKED_BITS)
        if not 0 < width < 8:
            return None
        elements = tensor.size * 8 // width
        rows, columns = (own_int(use.node, name, 0) for name in ("N", "K"))
        # The last block of a row may be padded.
        return _Size(f"{row.packed_as}{width}", width, min(elements, rows * columns or elements))
    return None


def _is_dynamic_scale(value: ir.Value) -> bool:
    producer = value.producer()
    return is_op(producer, "DynamicQuantizeLinear") and value.index() == DYNAMIC_SCALE
