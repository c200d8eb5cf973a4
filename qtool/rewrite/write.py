"""From a resolved plan to a graph: which writer writes what. Nothing here, or in the writers, decides."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from qtool.graph.edit import Namer
from qtool.graph.view import View
from qtool.plan.model import Kind, Plan, Site
from qtool.rewrite.corrections import correct_biases
from qtool.rewrite.dynamic import write_dynamic
from qtool.rewrite.half import write_half
from qtool.rewrite.nbits import write_nbits
from qtool.rewrite.ports import write_ports
from qtool.rewrite.qdq import write_activation, write_apart, write_bias, write_lifted, write_weight
from qtool.rewrite.qoperator import fuse_qoperators
from qtool.rewrite.spare import split_spared
from qtool.rewrite.stored import write_lookup, write_stored
from qtool.rewrite.writer import Writer
from qtool.tables.forms import Form
from qtool.tables.targets import TARGETS


def _whole(writer: Writer, site: Site) -> None:
    """Written with the node that reads it."""


# One writer a kind of site, in the order of the plan; then one a form of node.
_SITES: dict[Kind, Callable[[Writer, Site], None]] = {
    Kind.ACTIVATION: write_activation,
    Kind.WEIGHT: write_weight,
    Kind.BIAS: write_bias,
    Kind.LIFTED: write_lifted,
    Kind.APART: write_apart,
    Kind.STORED: write_stored,
    Kind.LOOKUP: write_lookup,
    Kind.RUNTIME: _whole,
    Kind.FUSED: _whole,
    Kind.ADDED: _whole,
}
_NODES: dict[Form, Callable[[Writer, ir.Node], None]] = {
    Form.DYNAMIC: write_dynamic,
    Form.NBITS: write_nbits,
}


def rewrite(model: ir.Model, plan: Plan) -> ir.Model:
    """A clone of the prepared model with every site and node of the plan quantized.

    Raises:
        KeyError: the plan names what the model does not have, or is not resolved.
    """
    clone = model.clone()
    correct_biases(clone, plan)
    split_spared(clone, plan)
    sites_of = {use: s for s in plan.sites for use in s.uses or ()}
    added = {s.scale_from[1]: s for s in plan.sites if s.kind is Kind.ADDED and s.scale_from}
    absorbed = {name for s in added.values() for name, _ in s.uses or ()}
    writer = Writer(View(clone), Namer(clone), TARGETS[plan.target], sites_of, added)
    for site in plan.sites:
        _SITES[site.kind](writer, site)
    for name, form in plan.forms.items():
        if form in _NODES and name not in absorbed:
            _NODES[form](writer, writer.view.node_by_name[name])
    write_ports(writer, plan)
    if plan.halves.sites or plan.halves.stored or plan.choices.io == "float16":
        write_half(clone, plan.halves, io_half=plan.choices.io == "float16")
    if plan.choices.format == "qoperator":
        fuse_qoperators(clone, contrib=writer.target.onnxruntime)
    _drop_unused_initializers(clone)
    return clone


def _drop_unused_initializers(model: ir.Model) -> None:
    for graph in model.graphs():
        kept = {id(v) for v in (*graph.outputs, *graph.inputs)}
        for name, value in list(graph.initializers.items()):
            if not value.uses() and id(value) not in kept:
                del graph.initializers[name]
