"""Which nodes of a QDQ graph become integer operators (format qoperator), and which operator each becomes.

A node becomes one where a DequantizeLinear makes each of its operands, a QuantizeLinear is the only consumer
of its result, perhaps behind a Relu or Clip, and a kernel takes its types, scales and attributes. These Q and
DQ are those of the plan's sites, and those that the model came with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import (
    View,
    attribute_float,
    attribute_int,
    constant,
    float_constant,
    is_op,
    is_read,
    rank,
    sole_consumer,
)
from qtool.plan.edits import EditKind, GraphEdit
from qtool.plan.model import Kind, Plan, Site
from qtool.plan.outlier_columns import end_of
from qtool.tables.forms import Form
from qtool.tables.qoperators import (
    EIGHT_BITS,
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
from qtool.tables.qtypes import PerChannel
from qtool.tables.targets import TARGETS

_UNBOUNDED = (-math.inf, math.inf)
_BARRIERS = (EditKind.QUANTIZER_BARRIER, EditKind.RESULT_BARRIER)
# Nodes in these forms have been replaced before, or lie behind Casts.
_OTHER_FORMS = (Form.DYNAMIC, Form.NBITS, Form.HALF)


@dataclass(frozen=True)
class Grid:
    """Integers as reals: (integer - zero_point) * scale.

    Args:
        type: of the integers, by numpy's name: one of EIGHT_BITS.
        axis: the axis that [C] runs along, from the front; None: one scale for all.
        scale, zero_point: [] or [C].
    """

    type: str
    axis: int | None
    scale: NDArray[np.float32]
    zero_point: NDArray[np.generic]

    def same_as(self, other: Grid) -> bool:
        """Return whether equal integers stand for equal reals."""
        return (
            (self.type, self.axis) == (other.type, other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


def with_integer_operators(plan: Plan, view: View) -> Plan:
    """Return a resolved plan with the integer operators that its format asks for; none in format qdq."""
    edits = [e for e in plan.edits if e.kind is not EditKind.KEPT_INTEGERS]
    if plan.choices.format != "qoperator":
        return replace(plan, edits=tuple(edits), integer_operators={})
    chooser = _Chooser(plan, view)
    chooser.choose()
    return replace(plan, edits=(*edits, *chooser.kept), integer_operators=chooser.found)


def clamp_limits(node: ir.Node) -> tuple[float, float] | None:
    """Return what a Relu or Clip holds values between; None when that is no constant."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    limits = list(_UNBOUNDED)
    for index in (1, 2):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            continue
        array = float_constant(value)
        if array is None or array.size != 1 or np.isnan(array).any():
            return None
        limits[index - 1] = float(array.reshape(-1)[0])
    return limits[0], limits[1]


def quantized(real: float, grid: Grid) -> int:
    """Return what QuantizeLinear makes of a number.

    Rounding and saturation keep order, so a clamp's limits are as exact in integers as in floats.
    """
    ends = np.iinfo(grid.type)
    with np.errstate(over="ignore"):  # beyond float32 is beyond the type's ends, too
        steps = np.rint(np.float32(real) / np.float32(grid.scale))
    return int(np.clip(steps + np.float32(grid.zero_point), ends.min, ends.max))


def integer_bounds(limits: tuple[float, float], grid: Grid) -> tuple[int, int] | None:
    """Return a clamp's limits in integers; None when saturation at the ends of the type does the same."""
    ends = np.iinfo(grid.type)
    bounds = quantized(limits[0], grid), quantized(limits[1], grid)
    return None if bounds == (ends.min, ends.max) else bounds


def grid_of(node: ir.Node) -> Grid | None:
    """Return the grid of a Q or DQ node; None unless it is constant and of 8 bits."""
    if len(node.inputs) < 3 or attribute_int(node, "block_size", 0):
        return None
    scale, zero = float_constant(node.inputs[1]), constant(node.inputs[2])
    if scale is None or zero is None or scale.shape != zero.shape or scale.ndim > 1:
        return None
    if str(zero.dtype) not in EIGHT_BITS:
        return None
    if scale.ndim == 0:
        return Grid(str(zero.dtype), None, scale, zero)
    axis, axes = attribute_int(node, "axis", 1), rank(node.inputs[0])
    if axis < 0 and axes is None:
        return None
    return Grid(str(zero.dtype), axis if axis >= 0 else axis + (axes or 0), scale, zero)


def product_scale(a: Grid, b: Grid) -> NDArray[np.float32]:
    """Return what one step of an int32 sum of products stands for: float32 [] or [N]."""
    return np.asarray(a.scale * b.scale, np.float32)


def _grid_of_site(site: Site) -> Grid | None:
    """The grid that the Q and DQ of a site have; None where it is not of 8 bits."""
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    dtype = np.dtype(site.spec.qtype.dtype)
    if dtype.name not in EIGHT_BITS:
        return None
    granularity = site.spec.granularity
    axis = granularity.axis if isinstance(granularity, PerChannel) else 1
    scale = np.asarray(site.qparams.scale, np.float32)
    return Grid(dtype.name, axis if scale.ndim else None, scale, site.qparams.zero_point.astype(dtype))


@dataclass(frozen=True)
class _Result:
    """Where a value goes that only a Q reads.

    Args:
        grid: of the Q.
        clamp: the Relu or Clip before the Q, if any.
        q: the Q, where the model came with it; None for a site's own.
        given: the integers are an output of the model.
    """

    grid: Grid
    clamp: ir.Node | None
    q: ir.Node | None
    given: bool


class _Chooser:
    """Looks at every node once, in graph order.

    Args:
        found: node -> its operator.
        kept: edits, one for each Q that reads a DQ of the same grid.
    """

    def __init__(self, plan: Plan, view: View) -> None:
        self.found: dict[str, IntegerOperator] = {}
        self.kept: list[GraphEdit] = []
        self._plan, self._view = plan, view
        self.contrib = TARGETS[plan.target].onnxruntime
        read = (Kind.ACTIVATION, Kind.WEIGHT, Kind.BIAS)
        self._read = {use: s for s in plan.sites if s.kind in read for use in s.uses or ()}
        self._sites = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
        self._taken: set[str] = set()
        split = {n for s in plan.sites if s.value in plan.outlier_columns for n, _ in s.uses or ()}
        ends = (view.node_by_name[end_of(n, view)].outputs[0].name or "" for n in split)
        # Something else than a Q reads these: a Max, a Sum, a Gather.
        self._apart = {*(e.value for e in plan.edits if e.kind in _BARRIERS), *ends, *plan.outlier_columns}

    def choose(self) -> None:
        """Fill `found` and `kept`."""
        for node in self._view.main_nodes:
            name = node.name or ""
            if not is_op(node, node.op_type) or name in self._taken:
                continue
            if self._plan.forms.get(name) not in _OTHER_FORMS:
                choice = next((c for choose in _CHOICES if (c := choose(self, node)) is not None), None)
                if choice is not None:
                    self.found[name] = choice
            for value in node.outputs:
                self._keep_integers(value)

    def _keep_integers(self, value: ir.Value) -> None:
        """List the site's Q on what a DQ of the model makes, where both have one grid."""
        site, maker = self._sites.get(value.name or ""), value.producer()
        if site is None or maker is None or value.name in self._apart or not is_op(maker, "DequantizeLinear"):
            return
        grid, own = grid_of(maker), _grid_of_site(site)
        if grid is None or own is None or not grid.same_as(own) or self._is_given(site, value):
            return
        self.kept.append(GraphEdit(EditKind.KEPT_INTEGERS, value.name or "", site.uses))

    def _is_given(self, site: Site, value: ir.Value) -> bool:
        """Whether the Q of a site makes an output of the model."""
        return value.is_graph_output() and site.uses is None and self._plan.choices.io == site.spec.qtype.name

    def _site_of(self, node: ir.Node, index: int) -> Site | None:
        value = node.inputs[index]
        whole = self._sites.get(value.name or "") if value is not None else None
        found = self._read.get((node.name or "", index))
        return found or (whole if whole is not None and whole.uses is None else None)

    def operand(self, node: ir.Node, index: int) -> Grid | None:
        """The grid of the DQ that makes an input."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        site = self._site_of(node, index)
        if site is not None:
            return _grid_of_site(site) if site.kind is not Kind.BIAS else None
        maker = value.producer()
        return grid_of(maker) if maker is not None and is_op(maker, "DequantizeLinear") else None

    def activation(self, node: ir.Node, index: int) -> Grid | None:
        """The same with one scale for the whole tensor."""
        found = self.operand(node, index)
        return found if found is not None and found.axis is None else None

    def is_constant(self, node: ir.Node, index: int) -> bool:
        """Whether the integers of an input are in the file."""
        value = node.inputs[index]
        site = self._site_of(node, index)
        if site is not None:
            return constant(value) is not None
        maker = value.producer() if value is not None else None
        return maker is not None and constant(maker.inputs[0]) is not None

    def bias(self, node: ir.Node, index: int, a: Grid, b: Grid) -> bool:
        """Whether an input is an int32 [N] bias at the product of two scales."""
        wanted = product_scale(a, b)
        site = self._site_of(node, index)
        if site is not None:
            if site.kind is not Kind.BIAS or site.qparams is None:
                return False
            scale: NDArray[np.float32] | None = site.qparams.scale
        else:
            value = node.inputs[index]
            maker = value.producer() if value is not None else None
            if maker is None or not is_op(maker, "DequantizeLinear"):
                return False
            array, scale = constant(maker.inputs[0]), float_constant(maker.inputs[1])
            if array is None or array.dtype != np.int32 or array.ndim != 1:
                return False
            if len(maker.inputs) > 2 and (zero := constant(maker.inputs[2])) is not None and zero.any():
                return False
        if scale is None or not (scale.size in (1, wanted.size) or wanted.size == 1):
            return False
        return bool(np.allclose(scale, wanted, rtol=1e-6, atol=0))

    def reader(self, value: ir.Value) -> ir.Node | None:
        """The only node that reads a value's floats, where no site quantizes it."""
        if value.name in self._sites or value.name in self._apart:
            return None
        found = sole_consumer(value)
        return None if found is None or self._plan.forms.get(found.name or "") is Form.HALF else found

    def result(self, value: ir.Value) -> _Result | None:
        """The Q that a value goes into, when that is all that becomes of it."""
        clamp = self.reader(value)
        if clamp is not None and is_op(clamp, "Relu", "Clip") and clamp.inputs[0] is value:
            found = self._q_of(clamp.outputs[0]) if clamp_limits(clamp) is not None else None
            return replace(found, clamp=clamp) if found is not None else None
        return self._q_of(value)

    def _q_of(self, value: ir.Value) -> _Result | None:
        site = self._sites.get(value.name or "")
        if site is None:
            q = self.reader(value)
            if q is None or not is_op(q, "QuantizeLinear") or q.inputs[0] is not value:
                return None
            grid = grid_of(q)
            fits = grid is not None and grid.axis is None
            return _Result(grid, None, q, q.outputs[0].is_graph_output()) if grid and fits else None
        uses = {(use.node.name or "", use.idx) for use in value.uses()}
        whole = site.uses is None or (uses == set(site.uses) and not value.is_graph_output())
        grid = _grid_of_site(site)
        if not whole or value.name in self._apart or grid is None:
            return None
        return _Result(grid, None, None, self._is_given(site, value))

    def take(self, to: _Result | None, *others: ir.Node) -> None:
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
    if a is None or b is None or not _channels_last(node, b, transposed=False):
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
    if a is None or b is None or not _channels_last(node, b, transposed) or attribute_int(node, "transA", 0):
        return None
    if attribute_float(node, "alpha", 1.0) != 1.0:
        return None
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return _Product(a, b, transposed, has_bias=False)
    if not graph.bias(node, 2, a, b) or attribute_float(node, "beta", 1.0) != 1.0:
        return None
    return _Product(a, b, transposed, has_bias=True)


def _channels_last(node: ir.Node, b: Grid, transposed: bool) -> bool:
    """Whether scales run along the columns of the product, if along anything; then b has two axes."""
    return b.axis is None or (rank(node.inputs[1]) == 2 and b.axis == (0 if transposed else 1))


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
