"""Nodes that stand or fall together: what the runtime runs as one, in float or in int8."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import View
from qtool.plan.groups import Groups
from qtool.plan.placed import Placed
from qtool.plan.variants import variant
from qtool.plan.weights import added_bias
from qtool.tables.forms import Form


@dataclass(frozen=True)
class Unit:
    """One label's worth of nodes.

    Args:
        name: of its first node.
        nodes: in graph order, all of which can be quantized.
        others: nodes that run with them in float, and have no quantized form of their own.
    """

    name: str
    nodes: tuple[str, ...]
    others: tuple[str, ...] = ()


def units_of(view: View, widest: Placed, fused: Iterable[tuple[str, str]] = ()) -> tuple[Unit, ...]:
    """The units of everything that could be quantized, in graph order.

    Args:
        view: of the prepared graph.
        widest: everything that could be (plan/place.py).
        fused: pairs of nodes that a profile has shown to run as one.
    """
    groups = Groups()
    for node in view.nodes:
        for other in _partners(node, widest):
            groups.join([node.name or "", other])
    for pair in fused:
        if any(name in widest.chosen for name in pair):
            groups.join(list(pair))
    members: dict[str, list[str]] = {}
    for node in view.nodes:
        members.setdefault(groups.of(node.name or ""), []).append(node.name or "")
    units = []
    for names in members.values():
        able = tuple(n for n in names if n in widest.chosen)
        if able:
            units.append(Unit(able[0], able, tuple(n for n in names if n not in widest.chosen)))
    return tuple(units)


def _partners(node: ir.Node, widest: Placed) -> list[str]:
    """What a node is one with, as the tables have it."""
    if node.name not in widest.chosen:
        return []
    found = []
    clamp = widest.epilogue_of(node)
    if clamp is not None:
        found.append(clamp.name or "")
    if node.op_type == "Mul" and variant(node) == "silu":
        makers = [v.producer() for v in node.inputs if v is not None]
        found += [m.name or "" for m in makers if m is not None and _is_gate(m, node)]
    if node.op_type == "MatMul" and widest.chosen[node.name].form is not Form.NBITS:
        bias = added_bias(node)
        found += [bias.use[0]] if bias is not None else []
    return [name for name in found if name]


def _is_gate(maker: ir.Node, mul: ir.Node) -> bool:
    """Whether a node is the Sigmoid of x * Sigmoid(x)."""
    return maker.op_type == "Sigmoid" and maker.inputs[0] in mul.inputs
