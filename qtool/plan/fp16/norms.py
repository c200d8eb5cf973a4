"""Fusion barriers in layer norms of separate ops that compute partly in float16.

    X -> (Cast) -> ReduceMean -> Sub -> Pow -> ReduceMean -> Add -> Sqrt -> Div -> Mul -> Add
                                    `---------------------------------'

onnxruntime's LayerNormFusion (1.31) looks through Casts. A Cast before the norm without another consumer
becomes part of the fused op, whatever type it casts from, and so do Casts inside. Where input, scale and bias
then differ in type, no session can be created. A Max with -inf changes no value, and no optimizer looks
through it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import onnx_ir as ir

from qtool.graph.view import View, is_op
from qtool.plan.fp16.ports import is_blind, is_float32
from qtool.plan.model import EditKind, Fp16Assignment, GraphEdit, Kind, Site, Use

_FLOAT, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
_Typed = tuple[int, ir.DataType | None]
"""The id of a value, and the type in which consumers read it."""


def norm_barriers(view: View, fp16: Fp16Assignment, sites: Iterable[Site] = ()) -> list[GraphEdit]:
    """Return the fusion barriers of norms of two types.

    A barrier stands behind the Cast before the norm where that is enough: the norm can then still be fused.
    Else it stands behind the norm's Div.

    Args:
        view: of the prepared model.
        fp16: the assignment. An empty one leaves the norms of the model as they are.
        sites: of the plan. A norm that a QuantizeLinear interrupts is not fused.
    """
    if not (fp16.nodes or fp16.stored or fp16.ports):
        return []
    types = _Types(view, fp16, sites)
    means = (node for node in view.nodes if is_op(node, "ReduceMean"))
    return [edit for mean in means if (edit := _barrier(mean, types)) is not None]


class _Types:
    """The types of all values once they are cast, and the consumers of a value in each type."""

    def __init__(self, view: View, fp16: Fp16Assignment, sites: Iterable[Site]) -> None:
        quantizers = [s for s in sites if s.kind is Kind.ACTIVATION]
        self._quantized_values = {s.value for s in quantizers if s.uses is None}
        self._quantized_uses = {use for s in quantizers for use in s.uses or ()}
        self._reads = {(name, i) for name, ports in fp16.nodes.items() for i in ports.inputs}
        self._in_float16 = set(fp16.stored)
        for name, ports in fp16.nodes.items():
            self._in_float16 |= {view.node_by_name[name].outputs[i].name or "" for i in ports.outputs}
        self._in_float16 |= {name for name in fp16.ports if view.values[name].is_graph_input()}
        self._ports = fp16.ports
        self._consumers: dict[_Typed, list[Use]] = defaultdict(list)
        self._outputs: set[_Typed] = set()
        for value in view.values.values():
            for use in value.uses():
                if not self._is_quantized(value, use.node, use.idx):
                    typed, _ = self.read(use.node, use.idx)
                    self._consumers[typed].append((use.node.name or "", use.idx))
            if value.is_graph_output():
                wanted = _FLOAT16 if value.name in self._ports else value.dtype
                self._outputs.add((id(value), wanted))

    def made(self, value: ir.Value) -> ir.DataType | None:
        """Return the type in which a value is computed."""
        return _FLOAT16 if value.name in self._in_float16 else value.dtype

    def read(self, node: ir.Node, index: int) -> tuple[_Typed, ir.Value]:
        """Return the type in which a node reads an input, and the input."""
        value = node.inputs[index]
        if value is None:
            raise ValueError(f"'{node.name}' has no input {index}")
        if (node.name or "", index) in self._reads:
            return (id(value), _FLOAT16), value
        taken = is_float32(value) and not is_blind(node, index)
        return (id(value), _FLOAT if taken else self.made(value)), value

    def consumers(self, typed: _Typed) -> list[Use]:
        """Return the consumers of a value in a type, without Casts to the other type."""
        return self._consumers.get(typed, [])

    def is_cast(self, value: ir.Value) -> bool:
        """Return whether a consumer or output needs a value in another type than it is computed in."""
        other = (id(value), _FLOAT if self.made(value) == _FLOAT16 else _FLOAT16)
        return other in self._consumers or other in self._outputs

    def sources(self, value: ir.Value, wanted: ir.DataType | None) -> set[ir.DataType | None]:
        """Return the types that a value in type `wanted` is cast from, or `wanted` itself.

        onnxruntime may inline an If, and so see the Casts at the ends of its branches.
        """
        made, producer = self.made(value), value.producer()
        if made != wanted and not value.is_initializer():
            return {made}
        if producer is not None and is_op(producer, "If"):
            index = value.index() or 0
            ends = [a.as_graph().outputs[index] for a in producer.attributes.values()]
            return set().union(*(self.sources(end, end.dtype) for end in ends))
        source = producer.inputs[0] if producer is not None and is_op(producer, "Cast") else None
        return {wanted if source is None else self.made(source)}

    def readers(self, value: ir.Value) -> list[ir.Node]:
        """Return the consumers of a value, without those of the quantized value."""
        return [use.node for use in value.uses() if not self._is_quantized(value, use.node, use.idx)]

    def _is_quantized(self, value: ir.Value, node: ir.Node, index: int) -> bool:
        return value.name in self._quantized_values or (node.name or "", index) in self._quantized_uses


def _barrier(mean: ir.Node, types: _Types) -> GraphEdit | None:
    """Return the barrier in the norm that begins with this ReduceMean; None if it needs none."""
    average = mean.outputs[0]
    typed, x = types.read(mean, 0)
    wanted = typed[1]
    subs = list(average.uses())
    if types.is_cast(average) or not all(is_op(use.node, "Sub") for use in subs):
        return None
    others = [(use.node, i) for use in subs for i in range(2) if use.node.inputs[i] is not average]
    if len(others) != len(subs) or any(types.read(*use)[0] != typed for use in others):
        return None
    within = {(mean.name or "", 0), *((node.name or "", i) for node, i in others)}
    alone = set(types.consumers(typed)) == within and (types.made(x) != wanted or not types.is_cast(x))
    for division in (n for use in subs for n in types.readers(use.node.outputs[0]) if is_op(n, "Div")):
        for scale in (n for n in types.readers(division.outputs[0]) if is_op(n, "Mul")):
            for bias in (n for n in types.readers(scale.outputs[0]) if is_op(n, "Add")):
                ends = {types.made(scale.outputs[0]), types.made(bias.outputs[0])}
                if (types.sources(x, wanted) if alone else {wanted}) | ends != {_FLOAT, _FLOAT16}:
                    continue
                if ends == {wanted}:
                    read = mean.inputs[0]
                    name = read.name or "" if read is not None else ""
                    return GraphEdit(EditKind.NORM_BARRIER, name, tuple(sorted(within)))
                return GraphEdit(EditKind.NORM_BARRIER, division.outputs[0].name or "", None)
    return None
