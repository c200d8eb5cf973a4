"""A model whose quantizers are switched by its inputs: one session measures the effect of each.

Every activation that a plan quantizes is rounded where its switch is on, and passes unchanged where it is
off. Weights are inputs, to be fed in float or rounded. With all switches off the model computes the same as
the prepared one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, insert_after_value, new_node, owner, take_output_name
from qtool.graph.view import View
from qtool.plan.model import WEIGHTS, Kind, Plan, Site
from qtool.plan.predict import key_of
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.rewrite.simulate.rounding import fake_quantize, op, read_value, round_to_float16
from qtool.rewrite.writer import Writer, float_array, redirect
from qtool.tables.targets import TARGETS


@dataclass(frozen=True)
class Switched:
    """A model with switches.

    Args:
        model: with inputs of its own beside those of the original.
        switches: key of the values that are quantized together -> its input, a bool of no axes.
        weights: weight -> its array, to be fed under its name.
    """

    model: ir.Model
    switches: dict[str, str]
    weights: dict[str, NDArray[np.float32]]


def switched(model: ir.Model, plan: Plan) -> Switched:
    """Return a clone of the prepared model with a switch for every scale of a plan's activations.

    Values that share a scale share a switch; so do the float16 results of one node.
    """
    clone = model.clone()
    split_outlier_columns(clone, plan)
    view = View(clone)
    writer = Writer(view, Namer(clone), TARGETS[plan.target], {})
    switches = _Switches(writer)
    weights: dict[str, NDArray[np.float32]] = {}
    for site in plan.sites:
        if site.kind in (Kind.ACTIVATION, Kind.RUNTIME) and view.in_main(view.values[site.value]):
            _switch(writer, site, switches.of(key_of(site)))
        elif site.kind in WEIGHTS and site.value not in weights:
            weights[site.value] = float_array(view.values[site.value])
    for name, ports in plan.fp16.nodes.items():
        node = view.node_by_name[name]
        for index in ports.outputs if node.graph is clone.graph else ():
            _switch_fp16(writer, node.outputs[index], switches.of(name))
    for name in weights:
        _feed(clone, view.values[name])
    return Switched(clone, switches.names, weights)


class _Switches:
    """The inputs that are switches.

    Args:
        writer: of the model that they are added to.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._inputs: dict[str, ir.Value] = {}

    def of(self, key: str) -> ir.Value:
        """Return the input for a key; the first call for the key adds it to the graph."""
        if key not in self._inputs:
            name = self._writer.namer(f"{key}_switch")
            value = ir.Value(name=name, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
            self._writer.model.graph.inputs.append(value)
            self._inputs[key] = value
        return self._inputs[key]

    @property
    def names(self) -> dict[str, str]:
        """Key -> the name of its input."""
        return {key: value.name or "" for key, value in self._inputs.items()}


def _switch(writer: Writer, site: Site, switch: ir.Value) -> None:
    value = read_value(writer, site)
    chosen = _either(writer, value, switch, fake_quantize(writer, site, value))
    insert_after_value(value, [chosen], owner(value))
    redirect(writer, site.uses, value, chosen.outputs[0], keep=[chosen, *_inside(chosen)])
    if site.uses is None:
        take_output_name(value, chosen.outputs[0], writer.namer)


def _switch_fp16(writer: Writer, value: ir.Value, switch: ir.Value) -> None:
    namer = writer.namer
    chosen = _either(writer, value, switch, round_to_float16(namer, value))
    insert_after_value(value, [chosen], owner(value))
    redirect(writer, None, value, chosen.outputs[0], keep=[chosen, *_inside(chosen)])
    take_output_name(value, chosen.outputs[0], namer)


def _either(writer: Writer, value: ir.Value, switch: ir.Value, nodes: Sequence[ir.Node]) -> ir.Node:
    """Return an If, which computes one branch only; a Where would compute both."""
    namer = writer.namer
    same = op(namer, "Identity", [value])
    branches = {}
    for name, body in (("then_branch", list(nodes)), ("else_branch", [same])):
        last = body[-1].outputs[0]
        last.type, last.shape = value.type, value.shape
        branches[name] = ir.AttrGraph(name, ir.Graph([], [last], nodes=body, name=namer(name)))
    chosen = new_node(
        "If", [switch], name=namer("either"), outputs=[namer(f"{value.name}_either")], attributes=branches
    )
    result = chosen.outputs[0]
    result.type, result.shape = value.type, value.shape
    return chosen


def _inside(chosen: ir.Node) -> list[ir.Node]:
    """Return the nodes of the branches of an If."""
    return [n for attr in chosen.attributes.values() for n in attr.as_graph()]


def _feed(model: ir.Model, value: ir.Value) -> None:
    """Turn an initializer into an input of the model; subgraphs read that, too."""
    graph, name = owner(value), value.name or ""
    del graph.initializers[name]
    if graph is model.graph:
        value.const_value = None
        model.graph.inputs.append(value)
        return
    fed = ir.Value(name=name, type=value.type, shape=value.shape)
    value.replace_all_uses_with(fed)
    model.graph.inputs.append(fed)
