"""Which nodes of a QDQ graph become integer operators (format qoperator), and which operator each becomes.

A node becomes one where a DequantizeLinear makes each of its operands, a QuantizeLinear is the only consumer
of its result, perhaps behind a Relu or Clip, and a kernel takes its types, scales and attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qtool.graph.view import View, attribute_float, attribute_int, float_constant, is_op, is_read, rank
from qtool.plan.edits import EditKind, GraphEdit
from qtool.plan.grids import Grid, clamp_limits, grid_of, grid_of_site, integer_bounds
from qtool.plan.model import Plan
from qtool.plan.qdq_view import QdqView, Result
from qtool.tables.forms import Form
from qtool.tables.qoperators import (
    ELEMENTWISE,
    MATMUL_INTEGER,
    MATMUL_INTEGER_TO_FLOAT,
    MOVES,
    Q_GEMM,
    QLINEAR_CONV,
    QLINEAR_MATMUL,
    Elementwise,
    IntegerOperator,
)

# Nodes in these forms have been replaced before, or lie behind Casts.
_OTHER_FORMS = (Form.DYNAMIC, Form.NBITS, Form.HALF)


def with_integer_operators(plan: Plan, view: View) -> Plan:
    """Return a resolved plan with the integer operators that its format asks for; none in format qdq."""
    edits = [e for e in plan.edits if e.kind is not EditKind.KEPT_INTEGERS]
    if plan.choices.format != "qoperator":
        return replace(plan, edits=tuple(edits), integer_operators={})
    chooser = _Chooser(plan, view)
    chooser.choose()
    return replace(plan, edits=(*edits, *chooser.kept), integer_operators=chooser.found)


class _Chooser(QdqView):
    """Looks at every node once, in graph order.

    Args:
        found: node -> its operator.
        kept: edits, one for each Q that reads a DQ of the same grid.
    """

    def __init__(self, plan: Plan, view: View) -> None:
        super().__init__(plan, view)
        self.found: dict[str, IntegerOperator] = {}
        self.kept: list[GraphEdit] = []
        self._taken: set[str] = set()

    def choose(self) -> None:
        """Fill `found` and `kept`."""
        for node in self.view.main_nodes:
            name = node.name or ""
            if not is_op(node, node.op_type) or name in self._taken:
                continue
            if self.plan.forms.get(name) not in _OTHER_FORMS:
                choice = next((c for choose in _CHOICES if (c := choose(self, node)) is not None), None)
                if choice is not None:
                    self.found[name] = choice
            for value in node.outputs:
                self._keep_integers(value)

    def _keep_integers(self, value: ir.Value) -> None:
        """List the site's Q on what a DQ of the model makes, where both have one grid."""
        site, maker = self.sites.get(value.name or ""), value.producer()
        if site is None or maker is None or value.name in self.apart or not is_op(maker, "DequantizeLinear"):
            return
        grid, own = grid_of(maker), grid_of_site(site)
        if grid is None or own is None or not grid.same_as(own) or self.is_given(site, value):
            return
        self.kept.append(GraphEdit(EditKind.KEPT_INTEGERS, value.name or "", site.uses))

    def take(self, to: Result | None, *others: ir.Node) -> None:
        """Note the nodes that become part of the operator before them."""
        clamp = to.clamp if to is not None else None
        for node in (*others, *([clamp] if clamp is not None else [])):
            self.found[node.name or ""] = IntegerOperator.FOLDED
            self._taken.add(node.name or "")
        if to is not None and to.q is not None:
            self._taken.add(to.q.name or "")


def _conv(graph: _Chooser, node: ir.Node) -> IntegerOperator | None:
    if node.op_type != "Conv":
        return None
    x, w, to = graph.activation(node, 0), graph.operand(node, 1), graph.result(node.outputs[0])
    if x is None or w is None or to is None or w.axis not in (None, 0):
        return None
    if (x.type, w.type) not in QLINEAR_CONV.pairs or to.grid.type != x.type:
        return None
    if np.unique(w.zero_point).size != 1:
        return None  # the kernel has one for all channels
    if len(node.inputs) > 2 and node.inputs[2] is not None and not graph.bias(node, 2, x, w):
        return None
    graph.take(to)
    return IntegerOperator.QLINEAR_CONV


@dataclass(frozen=True)
class _Product:
    """A MatMul or Gemm; `add`: the Add of its bias, where that is one of a MatMul."""

    a: Grid
    b: Grid
    transposed: bool
    has_bias: bool
    add: ir.Node | None = None


def _product(graph: _Chooser, node: ir.Node) -> IntegerOperator | None:
    found = _matmul(graph, node) if node.op_type == "MatMul" else None
    found = _gemm(graph, node) if node.op_type == "Gemm" else found
    if found is None:
        return None
    pair, adds = (found.a.type, found.b.type), [found.add] if found.add is not None else []
    to = graph.result((found.add or node).outputs[0])
    if to is not None and to.grid.type != found.a.type:
        to = None  # no operator changes the type on the way
    wants_gemm = node.op_type == "Gemm" or found.has_bias
    if graph.contrib and wants_gemm and rank(node.inputs[0]) == 2 and pair in Q_GEMM.pairs:
        graph.take(to, *adds)
        return IntegerOperator.Q_GEMM if to is not None else IntegerOperator.Q_GEMM_TO_FLOAT
    if found.transposed and not graph.is_constant(node, 1):
        return None
    if to is not None and not found.has_bias and pair in QLINEAR_MATMUL.pairs:
        graph.take(to)
        return IntegerOperator.QLINEAR_MATMUL
    if graph.contrib and not found.has_bias and pair in MATMUL_INTEGER_TO_FLOAT.pairs:
        return IntegerOperator.MATMUL_INTEGER_TO_FLOAT
    if pair not in MATMUL_INTEGER.pairs:
        return None
    graph.take(None, *adds)
    return IntegerOperator.MATMUL_INTEGER


def _matmul(graph: _Chooser, node: ir.Node) -> _Product | None:
    a, b = graph.activation(node, 0), graph.operand(node, 1)
    if a is None or b is None or not _channels_last(graph, node, b, transposed=False):
        return None
    add = graph.reader(node.outputs[0])
    if add is not None and is_op(add, "Add") and graph.is_constant(node, 1):
        index = 1 if add.inputs[0] is node.outputs[0] else 0
        if graph.bias(add, index, a, b):
            return _Product(a, b, False, has_bias=True, add=add)
    return _Product(a, b, False, has_bias=False)


def _gemm(graph: _Chooser, node: ir.Node) -> _Product | None:
    a, b = graph.activation(node, 0), graph.operand(node, 1)
    transposed = bool(attribute_int(node, "transB", 0))
    if a is None or b is None or not _channels_last(graph, node, b, transposed):
        return None
    if attribute_int(node, "transA", 0) or attribute_float(node, "alpha", 1.0) != 1.0:
        return None
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return _Product(a, b, transposed, has_bias=False)
    if not graph.bias(node, 2, a, b) or attribute_float(node, "beta", 1.0) != 1.0:
        return None
    return _Product(a, b, transposed, has_bias=True)


def _channels_last(graph: _Chooser, node: ir.Node, b: Grid, transposed: bool) -> bool:
    """Whether scales run along the columns of the product, if along anything; then b has two axes."""
    return b.axis is None or (graph.axes(node, 1) == 2 and b.axis == (0 if transposed else 1))


def _move(graph: _Chooser, node: ir.Node) -> IntegerOperator | None:
    """An op that moves or picks values, where one scale holds for all of them."""
    operands = _operands(graph, node, MOVES[node.op_type]) if node.op_type in MOVES else None
    if not operands:
        return None
    grid = next(iter(operands.values()))
    read = [v for v in node.outputs if is_read(v) and v.dtype in (None, ir.DataType.FLOAT)]
    results = [graph.result(v) for v in read]
    if not results or not all(o.same_as(grid) for o in operands.values()):
        return None
    for to in results:
        if to is None or to.clamp is not None or not to.grid.same_as(grid):
            return None
    if node.op_type == "Pad" and not _pads_with_a_number(node):
        return None
    if node.op_type == "Resize" and not _picks_nearest(node):
        return None
    for to in results:
        graph.take(to)
    return IntegerOperator.MOVE


def _pads_with_a_number(node: ir.Node) -> bool:
    """Whether a Pad fills in no number, or a finite constant that has an integer."""
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return True
    given = node.inputs[2] if len(node.inputs) > 2 else None
    filling = float_constant(given) if given is not None else np.zeros((), np.float32)
    return filling is not None and filling.size == 1 and bool(np.isfinite(filling).all())


def _picks_nearest(node: ir.Node) -> bool:
    """Whether a Resize only picks values; outside of the image it may fill in a number of its own."""
    mode, coordinates = (node.attributes.get(k) for k in ("mode", "coordinate_transformation_mode"))
    crops = coordinates is not None and coordinates.as_string() == "tf_crop_and_resize"
    return not crops and (mode is None or mode.as_string() == "nearest")


def _clamp(graph: _Chooser, node: ir.Node) -> IntegerOperator | None:
    """A Relu or Clip that reads and writes the same grid."""
    grid = graph.activation(node, 0) if node.op_type in ("Relu", "Clip") else None
    to, limits = (graph.result(node.outputs[0]), clamp_limits(node)) if grid is not None else (None, None)
    if grid is None or to is None or limits is None or to.clamp or not to.grid.same_as(grid):
        return None
    if integer_bounds(limits, grid) is None:
        if to.given:
            return None
        graph.take(to)
        return IntegerOperator.PASSED
    graph.take(to)
    return IntegerOperator.CLAMP


def _elementwise(graph: _Chooser, node: ir.Node) -> IntegerOperator | None:
    """What com.microsoft has for ops without weights."""
    row = ELEMENTWISE.get(node.op_type) if graph.contrib else None
    operands = _operands(graph, node, row.operands) if row is not None else None
    to = graph.result(node.outputs[0]) if operands else None
    if row is None or not operands or to is None or not _has_attributes(node, row):
        return None
    if any(o.type != to.grid.type for o in operands.values()):
        return None
    graph.take(to)
    return IntegerOperator.ELEMENTWISE


def _has_attributes(node: ir.Node, row: Elementwise) -> bool:
    """Whether an integer operator can be told all that a node says."""
    for name, attribute in node.attributes.items():
        if name in row.attributes:
            continue
        if name != "dilations" or any(d != 1 for d in attribute.as_ints()):
            return False
    return True


def _kept(graph: _Chooser, node: ir.Node) -> IntegerOperator | None:
    """A Q of the model that reads a DQ of the same grid."""
    source = graph.activation(node, 0) if node.op_type == "QuantizeLinear" else None
    grid = grid_of(node) if source is not None else None
    if source is None or grid is None or not grid.same_as(source) or node.outputs[0].is_graph_output():
        return None
    return IntegerOperator.PASSED


def _operands(graph: _Chooser, node: ir.Node, indices: tuple[int, ...] | None) -> Mapping[int, Grid] | None:
    """The grids of a node's operands, by input; None unless all of them have one."""
    found = {}
    for index in range(len(node.inputs)) if indices is None else indices:
        each = graph.activation(node, index)
        if each is None:
            return None
        found[index] = each
    return found


_CHOICES: tuple[Callable[[_Chooser, ir.Node], IntegerOperator | None], ...] = (
    _conv,
    _product,
    _move,
    _clamp,
    _elementwise,
    _kept,
)
