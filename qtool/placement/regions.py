"""Regions: nodes that are quantized together, because the runtime runs them as one kernel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import View
from qtool.plan.activations import DisjointSets
from qtool.plan.assignment import AssignedGraph
from qtool.plan.variants import variant
from qtool.plan.weights import added_bias
from qtool.tables.forms import Form


@dataclass(frozen=True)
class Region:
    """Nodes that are either all in int8 or all in float.

    Args:
        name: the name of its first node.
        nodes: its quantizable nodes, in graph order.
        others: nodes that the float runtime fuses with them, and that have no quantized form.
    """

    name: str
    nodes: tuple[str, ...]
    others: tuple[str, ...] = ()


def find_regions(
    view: View, assigned: AssignedGraph, fused: Iterable[tuple[str, str]] = ()
) -> tuple[Region, ...]:
    """Return the regions of all quantizable nodes, in graph order.

    Args:
        view: of the prepared graph.
        assigned: the maximal int8 set.
        fused: pairs of nodes that ran as one kernel in a trace.
    """
    groups = DisjointSets()
    for node in view.nodes:
        for other in _partners(node, assigned):
            groups.join([node.name or "", other])
    for pair in fused:
        if any(name in assigned.chosen for name in pair):
            groups.join(list(pair))
    members: dict[str, list[str]] = {}
    for node in view.nodes:
        members.setdefault(groups.of(node.name or ""), []).append(node.name or "")
    regions = []
    for names in members.values():
        quantizable = tuple(n for n in names if n in assigned.chosen)
        if quantizable:
            others = tuple(n for n in names if n not in assigned.chosen)
            regions.append(Region(quantizable[0], quantizable, others))
    return tuple(regions)


def _partners(node: ir.Node, assigned: AssignedGraph) -> list[str]:
    """Return the nodes that run in one kernel with a node, by the tables."""
    if node.name not in assigned.chosen:
        return []
    partners = []
    clamp = assigned.epilogue_of(node)
    if clamp is not None:
        partners.append(clamp.name or "")
    if node.op_type == "Mul" and variant(node) == "silu":
        producers = [v.producer() for v in node.inputs if v is not None]
        partners += [m.name or "" for m in producers if m is not None and _is_gate(m, node)]
    if node.op_type == "MatMul" and assigned.chosen[node.name or ""].form is not Form.NBITS:
        bias = added_bias(node)
        partners += [bias.use[0]] if bias is not None else []
    return [name for name in partners if name]


def _is_gate(producer: ir.Node, mul: ir.Node) -> bool:
    """Whether a node is the Sigmoid of x * Sigmoid(x)."""
    return producer.op_type == "Sigmoid" and producer.inputs[0] in mul.inputs
