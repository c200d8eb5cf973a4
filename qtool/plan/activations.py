"""Lay out the activation sites of a plan: their consumers, and the groups that share a scale."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from qtool.graph.view import View, float_constant, is_op, op_key, sole_consumer
from qtool.plan.assignment import AssignedGraph
from qtool.plan.eligible import data_inputs, rule_of, summed_axis
from qtool.plan.model import Kind, Site, Use
from qtool.plan.scheme import Scheme
from qtool.plan.weights import split_size
from qtool.tables.float16 import FLOAT32_INPUTS
from qtool.tables.forms import Form
from qtool.tables.ops import ANY, Bounds, Role
from qtool.tables.qtypes import FLOAT16, FLOAT32, PER_TENSOR, UINT8, Granularity, PerBlock, TensorSpec


def activation_sites(view: View, assigned: AssignedGraph, scheme: Scheme) -> list[Site]:
    """Return the calibrated activation sites, one for each value.

    The result of an int8 node is int8 for all its consumers; other values are quantized for int8 consumers.
    """
    spec = TensorSpec(scheme.activation, PER_TENSOR, scheme.symmetric)
    order: dict[str, ir.Value] = {}
    uses: dict[str, list[Use]] = {}
    everywhere: set[str] = set()
    groups = DisjointSets()
    for node in view.main_nodes:
        quantized = assigned.chosen.get(node.name or "")
        if quantized is None or quantized.form is not Form.INT8:
            continue
        clamped = _is_epilogue(assigned, node)
        inputs = [] if clamped else data_inputs(node, quantized.rule)
        fused = fused_operand(assigned, node)
        inputs = [(index, value) for index, value in inputs if value is not fused]
        for index, value in inputs:
            name = value.name or ""
            order.setdefault(name, value)
            uses.setdefault(name, []).append((node.name or "", index))
        in_int8 = assigned.quantizes_output(node) and not assigned.epilogue_of(node)
        results = float_values(node.outputs) if in_int8 else []
        for value in results:
            order.setdefault(value.name or "", value)
            everywhere.add(value.name or "")
        if quantized.rule.role is Role.PASS:
            groups.join([v.name or "" for v in (*(v for _, v in inputs), *results)])
    ports = [v for v in integer_ports(view, scheme) if v.name not in assigned.float_ports]
    for value in ports:
        order.setdefault(value.name or "", value)
    if scheme.target.float_results:
        order = {name: value for name, value in order.items() if name in uses or value in ports}
    everywhere |= {v.name or "" for v in ports}
    return [
        Site(
            name,
            Kind.ACTIVATION,
            None if name in everywhere else tuple(uses[name]),
            spec,
            group=groups.of(name),
            bounds=bounds_of(value),
        )
        for name, value in order.items()
    ]


def fused_operand(assigned: AssignedGraph, node: ir.Node) -> ir.Value | None:
    """Return the operand of an Add that an int8 Conv computes for it alone, where the two are fused."""
    if not assigned.scheme.target.fused_adds or not is_op(node, "Add"):
        return None
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        own = assigned.chosen.get(producer.name or "") if producer is not None else None
        if value is not None and own is not None and is_op(producer, "Conv") and sole_consumer(value) is node:
            return value
    return None


def integer_ports(view: View, scheme: Scheme) -> list[ir.Value]:
    """Return the float inputs and outputs of the model that --io turns into integers."""
    return [v for v in _ports(view, scheme) if not _is_exact(v)]


def written_ports(view: View, scheme: Scheme, sites: Iterable[Site]) -> tuple[str, ...]:
    """Return the inputs and outputs that are written as integers, inputs first, in the order of `sites`.

    They are quantized for all their consumers. A port that only some consumers read quantized stays float.
    """
    if scheme.io in (FLOAT32, FLOAT16):
        return ()
    graph = view.model.graph
    quantized = [s.value for s in sites if s.kind is Kind.ACTIVATION and s.uses is None]
    inputs = [v.name or "" for v in graph.inputs if v.name in quantized]
    outputs = {v.name for v in graph.outputs}
    return (*inputs, *(name for name in quantized if name in outputs and name not in inputs))


def float_ports(view: View, scheme: Scheme) -> list[ir.Value]:
    """Return the inputs and outputs that --io must leave in float, such as the scales of a Resize."""
    return [v for v in _ports(view, scheme) if _is_exact(v)]


def _ports(view: View, scheme: Scheme) -> list[ir.Value]:
    if scheme.io in (FLOAT32, FLOAT16):
        return []
    graph = view.model.graph
    # onnx-ir gives sequences of floats the type FLOAT, too.
    tensors = [v for v in (*graph.inputs, *graph.outputs) if isinstance(v.type, ir.TensorType)]
    floats = [v for v in tensors if v.dtype == ir.DataType.FLOAT and not v.is_initializer()]
    # An input that is also an output stays float.
    return [v for v in floats if not (v.is_graph_input() and v.is_graph_output())]


def _is_exact(value: ir.Value) -> bool:
    """Whether 8 bits would break the model: an exact argument, or beside a DequantizeLinear of float8."""
    if any(use.idx in FLOAT32_INPUTS.get(op_key(use.node), ()) for use in value.uses()):
        return True
    around = [value.producer(), *(use.node for use in value.uses())]
    return any(_is_foreign(v) for n in around if n is not None for v in n.inputs)


def _is_foreign(value: ir.Value | None) -> bool:
    """Whether a DequantizeLinear restores a value from floats: the runtime fails to fuse a Q beside it."""
    producer = value.producer() if value is not None else None
    stored = producer.inputs[0] if producer is not None and is_op(producer, "DequantizeLinear") else None
    return stored is not None and stored.dtype is not None and not stored.dtype.is_integer()


def runtime_sites(view: View, assigned: AssignedGraph) -> list[Site]:
    """Return the run-time quantized activation sites, one for each value and granularity."""
    sites: dict[tuple[str, Granularity], list[Use]] = {}
    for node in view.nodes:
        quantized = assigned.chosen.get(node.name or "")
        if quantized is None or quantized.form is not Form.DYNAMIC or quantized.rule.role is Role.RECURRENT:
            continue
        size = split_size(node, quantized.rule, assigned.scheme)
        granularity = PerBlock(summed_axis(node), size) if size else PER_TENSOR
        for index, value in data_inputs(node, quantized.rule):
            sites.setdefault((value.name or "", granularity), []).append((node.name or "", index))
    return [
        Site(name, Kind.RUNTIME, tuple(uses), TensorSpec(UINT8, granularity, symmetric=False))
        for (name, granularity), uses in sites.items()
    ]


def float_values(values: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the values that hold floats; a MaxPool may also have indices."""
    return [v for v in values if v.name and v.dtype in (None, ir.DataType.FLOAT)]


def _is_epilogue(assigned: AssignedGraph, node: ir.Node) -> bool:
    """Whether a node is a clamp that folds into its producer."""
    source = node.inputs[0] if node.inputs else None
    producer = source.producer() if source is not None else None
    return producer is not None and assigned.epilogue_of(producer) is node


def bounds_of(value: ir.Value) -> Bounds:
    """Return the limits of a value, from the op that computes it."""
    producer = value.producer()
    rule = rule_of(producer) if producer is not None else None
    if producer is None or rule is None:
        return ANY
    if producer.op_type != "Clip":
        return rule.bounds
    lo, hi = (_scalar(producer, index, none) for index, none in zip((1, 2), ANY, strict=True))
    return min(lo, hi), hi  # with min above max, every output is max (Clip-13)


def nonnegative(view: View, names: Iterable[str]) -> frozenset[str]:
    """Return the values that are never negative."""
    return frozenset(name for name in names if bounds_of(view.values[name])[0] >= 0)


def _scalar(node: ir.Node, index: int, none: float) -> float:
    """Return a constant input of one element, of any rank; `none` where there is no such constant."""
    array = float_constant(node.inputs[index]) if index < len(node.inputs) else None
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else none


class DisjointSets:
    """Sets of names, joined by union-find: values that share a scale, nodes of one region."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, names: Sequence[str]) -> None:
        """Join the sets of all the names."""
        for name in names[1:]:
            self._parent[self.of(name)] = self.of(names[0])

    def of(self, name: str) -> str:
        """Return the name that stands for the set of a name."""
        root = name
        while (above := self._parent.get(root, root)) != root:
            root = above
        while name != root:
            self._parent[name], name = root, self._parent.get(name, name)
        return root
