"""The number format that each node computes in, and the ways of quantizing in a graph.

A node computes

- in no number format where it is a conversion (`convert`), depends on no input (`constant`), or returns
  indices, shapes or booleans (`other`);
- in integers when its op does (tables in ops.py), when it works on 8-bit integers, or in QDQ form: all of
  its data comes from DequantizeLinear, and every consumer of its results is a QuantizeLinear. A Relu or
  Clip may lie between it and the latter, and counts as well; so may moves (a Transpose, a Reshape), also
  before the ops that have weights. A MatMul or Gemm needs no QuantizeLinear behind it;
- else in its float type. Where its weight is stored in fewer bits than that, it counts as `stored` too, and
  still computes in floats.

This is what the graph declares; whether the runtime has an int8 kernel for it is not in the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from qtool.graph.inspection.dtypes import Dtypes, bits, dtype_name, is_float, is_small_integer
from qtool.graph.inspection.model import CONSTANT, CONVERT, OTHER, QUANTIZED_BITS, OpCount
from qtool.graph.inspection.ops import FLOAT_RESULT, INT8_ACCURACY_LEVEL, MICROSOFT, QUANTIZED_OPS
from qtool.graph.inspection.walk import nested_graphs, own_int
from qtool.graph.inspection.weights import Constants
from qtool.graph.view import is_op, op_key, sole_consumer
from qtool.tables.ops import OPS, Q_MOVES_UP_THROUGH, Role

INT8 = "int8"
INT16 = "int16"
# The most moves before a Q; a longer chain is not the work of a quantizer.
_MOST_BETWEEN = 4
QUANTIZE = frozenset({"QuantizeLinear", MICROSOFT + "QuantizeLinear"})
_DEQUANTIZE = ("DequantizeLinear", MICROSOFT + "DequantizeLinear")
# In the order of the report.
FORMS = ("qdq", "qoperator", "dynamic", "weight-only", "float16", "bfloat16", "float8")


class Precisions:
    """The number formats that nodes compute in."""

    def __init__(self, nodes: Iterable[ir.Node], dtypes: Dtypes, constants: Constants) -> None:
        self._dtypes = dtypes
        self._constants = constants
        # A float value -> its integers before DequantizeLinear, through moves.
        self._restored: dict[ir.Value, ir.Value] = {}
        # Integers whose scale was found at run time.
        self._dynamic: set[ir.Value] = set()
        for node in nodes:
            source = node.inputs[0] if node.inputs else None
            if source is None:
                continue
            if op_key(node) in _DEQUANTIZE:
                self._restored[node.outputs[0]] = source
            elif op_key(node) == "DynamicQuantizeLinear":
                self._dynamic.add(node.outputs[0])
            elif op_key(node) in Q_MOVES_UP_THROUGH and source in self._restored:
                self._restored[node.outputs[0]] = self._restored[source]
            elif op_key(node) in Q_MOVES_UP_THROUGH and source in self._dynamic:
                self._dynamic.add(node.outputs[0])

    def of(self, node: ir.Node) -> str:
        """Return what a node computes in: 'int8', 'float32', .., or one of NO_FORMAT."""
        row = QUANTIZED_OPS.get(op_key(node))
        if row is not None and row.integers is None:
            return CONVERT
        if self._constants.depends_on_none_but(node):
            return CONSTANT
        if any(nested_graphs(node)) or any(v in self._dtypes.stands_for for v in node.outputs):
            return OTHER  # what is inside computes
        if row is not None and (row.integers or _multiplies_int8(node)):
            return INT8
        return self.between_qdq(node) or self._by_type(node)

    def between_qdq(self, node: ir.Node) -> str:
        """Return the format that a node computes in by the Q and DQ around it; '' for none."""
        fed = self._fed_by(node)
        clamped = _clamped_by(node)
        if fed is None and clamped is not None:
            fed = self._fed_by(clamped)
        if fed is None:
            return ""
        results = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        quantized = bool(results) and all(map(_is_quantized, results))
        return _format(fed) if quantized or (clamped is None and is_op(node, *FLOAT_RESULT)) else ""

    def form(self, node: ir.Node) -> str:
        """Return the way of quantizing that a node shows, '' for none."""
        row = QUANTIZED_OPS.get(op_key(node))
        if row is None:
            return "qdq" if self.between_qdq(node) else ""
        if row.form or not row.integers:
            return row.form
        return "dynamic" if node.inputs[0] in self._dynamic else "qoperator"

    def stored_bits(self, node: ir.Node) -> int:
        """Return the bits of the weights of a node, where it computes in more; else 0.

        A Gather of rows that are restored later reads such a weight too.
        """
        made = [self._dtypes.of(v) for v in node.outputs]
        limit = max((bits(t) for t in made if is_float(t)), default=0)
        if any(map(is_small_integer, made)):
            limit = QUANTIZED_BITS + 1
        stored = self._constants.stored_bits
        read = (stored[v] for v in node.inputs if v is not None and v in stored)
        return min((b for b in read if b < limit), default=0)

    def _by_type(self, node: ir.Node) -> str:
        made = [self._dtypes.of(v) for v in node.outputs]
        floats = [t for t in made if is_float(t)]
        if floats:
            return dtype_name(floats[0])
        fed = [self._dtypes.of(v) for v in node.inputs if v not in self._constants.fixed]
        return INT8 if any(map(is_small_integer, made)) and any(map(is_small_integer, fed)) else OTHER

    def _fed_by(self, node: ir.Node) -> ir.DataType | None:
        """Return the integer type from which all of a node's data is dequantized; else None."""
        restored, floats = self.operands(node)
        if not restored or floats:
            return None
        activations = [v for v in restored if v not in self._constants.fixed]
        return self._dtypes.of((activations or restored)[0])

    def operands(self, node: ir.Node) -> tuple[list[ir.Value], list[ir.Value]]:
        """Return the integers that a node's data is dequantized from, and the rest of its data."""
        rule = OPS.get(op_key(node))
        slots: Iterable[int] = range(len(node.inputs))
        if rule is not None and rule.data is not None:
            slots = {*rule.data, *rule.weight}
        values = [v for i in slots if i < len(node.inputs) and (v := node.inputs[i]) is not None]
        # Constants of an op without a row may be bounds and the like.
        data = [
            v
            for v in values
            if (is_float(self._dtypes.of(v)) or self._dtypes.of(v) is None)
            and not (rule is None and v in self._constants.tensors)
        ]
        # Exporters put a Transpose between a weight and its product; elsewhere a float move is just that.
        through_moves = rule is not None and rule.role is Role.WEIGHTED
        able = [v for v in data if v in self._restored and (through_moves or _dequantized(v))]
        return [self._restored[v] for v in able], [v for v in data if v not in able]


def count_ops(nodes: Sequence[ir.Node], precisions: Precisions) -> tuple[dict[str, OpCount], tuple[str, ...]]:
    """Return the nodes by op type, the commonest first, and the ways of quantizing that they show."""
    computes: dict[str, Counter[str]] = {}
    stored: Counter[str] = Counter()
    forms: set[str] = set()
    for node in nodes:
        op, kind = op_key(node), precisions.of(node)
        computes.setdefault(op, Counter())[kind] += 1
        if kind not in (INT8, INT16, CONVERT, CONSTANT) and (width := precisions.stored_bits(node)):
            stored[op] += 1
            forms |= {"weight-only"} if width <= QUANTIZED_BITS else set()
        forms |= {precisions.form(node), kind}
    rows = {
        op: OpCount(c.total(), dict(sorted(c.items(), key=lambda kc: (-kc[1], kc[0]))), stored[op])
        for op, c in computes.items()
    }
    ordered = dict(sorted(rows.items(), key=lambda row: (-row[1].nodes, row[0])))
    return ordered, tuple(f for f in FORMS if any(form.startswith(f) for form in forms))


def _multiplies_int8(node: ir.Node) -> bool:
    return own_int(node, "accuracy_level", 0) == INT8_ACCURACY_LEVEL


def behind_clamp(value: ir.Value) -> ir.Value:
    """Return the result of the Relu or Clip that is the only consumer of a value; else the value."""
    reader = sole_consumer(value)
    return reader.outputs[0] if reader is not None and _is_clamp(reader) else value


def _clamped_by(node: ir.Node) -> ir.Node | None:
    """Return the producer of the input of a Relu or Clip that is its only consumer."""
    if not _is_clamp(node) or node.inputs[0] is None:
        return None
    producer = node.inputs[0].producer()
    return producer if producer is not None and sole_consumer(node.inputs[0]) is node else None


def _is_quantized(value: ir.Value) -> bool:
    """Return whether every consumer of a value is a QuantizeLinear, perhaps behind a clamp and some moves."""
    for _ in range(_MOST_BETWEEN):
        if not value.is_graph_output() and value.uses() and all(_quantizes(u.node) for u in value.uses()):
            return True
        reader = sole_consumer(value)
        if reader is None or not (_is_clamp(reader) or op_key(reader) in Q_MOVES_UP_THROUGH):
            return False
        value = reader.outputs[0]
    return False


def _dequantized(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and op_key(producer) in _DEQUANTIZE


def _quantizes(node: ir.Node) -> bool:
    return op_key(node) in QUANTIZE


def _is_clamp(node: ir.Node) -> bool:
    rule = OPS.get(op_key(node))
    return rule is not None and rule.role is Role.EPILOGUE


def _format(integers: ir.DataType) -> str:
    """Return the format of a kernel on such data; 4 bits are widened to 8 first."""
    if is_float(integers):
        return dtype_name(integers)
    return INT8 if bits(integers) <= QUANTIZED_BITS else INT16
