"""Weights that both float16 and float32 nodes read: kept in the file as they are, with a copy in float16."""

from __future__ import annotations

from collections.abc import Iterable

from qtool.graph.view import View
from qtool.plan.edits import EditKind, GraphEdit
from qtool.plan.fp16.assignment import Fp16Assignment
from qtool.plan.fp16.ports import is_blind, is_float32
from qtool.plan.model import Kind, Site

_NEITHER = (Kind.ACTIVATION, Kind.RUNTIME)


def copied_weights(
    view: View, fp16: Fp16Assignment, sites: Iterable[Site] = (), edits: Iterable[GraphEdit] = ()
) -> frozenset[str]:
    """Return the weights of float16 nodes that stay float32, because something else needs them so.

    That is a float32 node, unless the weight is one of `fp16.stored`, or an output of the model. All other
    weights of float16 nodes become float16 where they lie.

    Args:
        view: of the prepared model.
        fp16: what becomes float16.
        sites, edits: of the same plan. A node that reads a weight as integers, or reshaped, does not need
            its floats.
    """
    reads = {(name, i) for name, ports in fp16.sites.items() for i in ports.reads}
    others = {use for s in sites if s.kind not in _NEITHER for use in s.uses or ()}
    others |= {use for e in edits if e.kind is EditKind.RESHAPED_BIAS for use in e.uses or ()}
    found = set()
    others |= reads
    for name, value in view.values.items():
        if not (value.is_initializer() and is_float32(value)) or value.is_graph_input():
            continue
        uses = [(use.node, use.idx) for use in value.uses()]
        if not any((node.name or "", i) in reads for node, i in uses):
            continue
        floats = any((node.name or "", i) not in others and not is_blind(node, i) for node, i in uses)
        needed = name not in fp16.ports if value.is_graph_output() else floats and name not in fp16.stored
        if needed:
            found.add(name)
    return frozenset(found)
