"""A model whose quantizers are switched by its inputs: one session measures the effect of each.

Every activation that a plan quantizes is rounded where its switch is on, and passes unchanged where it is
off. Where the switch of a weight is on, its consumers run once more, with the weight that is fed. With all
switches off the model computes the same as the prepared one, with constant weights: the runtime packs these
when it loads the model, as it can't with weights that are fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, insert_after_value, new_node, owner, take_output_name
from qtool.graph.view import View
from qtool.plan.model import WEIGHTS, Kind, Plan, Site, Use
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
        switches: key of the values that are quantized together, or weight -> its input, a bool of no axes. A
            weight whose sites have a group has one for each group.
        fed: weight or its group -> the input for its rounded array; of any shape while its switch is off.
        weights: weight -> its array in float.
    """

    model: ir.Model
    switches: dict[str, str]
    fed: dict[str, str]
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
    pieces: dict[str, list[Site]] = {}
    for site in plan.sites:
        if site.kind in (Kind.ACTIVATION, Kind.RUNTIME) and view.in_main(view.values[site.value]):
            _switch(writer, site, switches.of(key_of(site)))
        elif site.kind in WEIGHTS:
            pieces.setdefault(site.group or site.value, []).append(site)
            if site.value not in weights:
                weights[site.value] = float_array(view.values[site.value])
    for name, ports in plan.fp16.nodes.items():
        node = view.node_by_name[name]
        for index in ports.outputs if node.graph is clone.graph else ():
            _switch_fp16(writer, node.outputs[index], switches.of(name))
    copied: dict[ir.Node, str] = {}
    fed = {key: _switch_weight(writer, sites, switches.of(key), copied) for key, sites in pieces.items()}
    return Switched(clone, switches.names, fed, weights)


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
    chosen = _either(writer, [value], switch, fake_quantize(writer, site, value))
    _insert(writer, chosen, [value], site.uses)


def _switch_fp16(writer: Writer, value: ir.Value, switch: ir.Value) -> None:
    chosen = _either(writer, [value], switch, round_to_float16(writer.namer, value))
    _insert(writer, chosen, [value])


def _switch_weight(
    writer: Writer, sites: Sequence[Site], switch: ir.Value, copied: dict[ir.Node, str]
) -> str:
    """Let consumers of a weight run with a fed one where the switch is on; return that input's name.

    Args:
        writer: of the model.
        sites: of the weight: all, or those of one group.
        switch: a bool of no axes.
        copied: second run of a node -> its name; that of an LSTM reads a second weight. Is added to.
    """
    weight = writer.view.values[sites[0].value]
    readers = {name for s in sites if s.group for name, _ in s.uses or ()}
    fed = ir.Value(name=writer.namer(f"{weight.name}_fed"), type=ir.TensorType(ir.DataType.FLOAT))
    writer.model.graph.inputs.append(fed)
    nodes = dict.fromkeys(use.node for use in weight.uses())
    for node in (n for n in nodes if not readers or copied.get(n, n.name) in readers):
        other = ir.Node(
            node.domain,
            node.op_type,
            [fed if value is weight else value for value in node.inputs],
            node.attributes.values(),
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=writer.namer(node.op_type),
        )
        copied[other] = copied.get(node, node.name or "")
        for old, new in zip(node.outputs, other.outputs, strict=True):
            new.name = writer.namer(f"{old.name}_other") if old.name else ""
        read = [i for i, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()]
        if read:
            values = [node.outputs[i] for i in read]
            chosen = _either(writer, values, switch, [other], [other.outputs[i] for i in read])
            _insert(writer, chosen, values)
    return fed.name or ""


def _insert(
    writer: Writer, chosen: ir.Node, values: Sequence[ir.Value], uses: tuple[Use, ...] | None = None
) -> None:
    """Insert an If behind the values that it chooses from, and let their consumers read its outputs."""
    insert_after_value(values[0], [chosen], owner(values[0]))
    for value, result in zip(values, chosen.outputs, strict=True):
        redirect(writer, uses, value, result, keep=[chosen, *_inside(chosen)])
        if uses is None:
            take_output_name(value, result, writer.namer)


def _either(
    writer: Writer,
    values: Sequence[ir.Value],
    switch: ir.Value,
    nodes: Sequence[ir.Node],
    results: Sequence[ir.Value] = (),
) -> ir.Node:
    """Return an If, which computes one branch only; a Where would compute both.

    Args:
        writer: of the model.
        values: its outputs where the switch is off.
        switch: a bool of no axes.
        nodes: computed where it is on.
        results: its outputs then; by default the output of the last node.
    """
    namer = writer.namer
    same = [op(namer, "Identity", [value]) for value in values]
    branches = {
        "then_branch": (nodes, results or [nodes[-1].outputs[0]]),
        "else_branch": (same, [node.outputs[0] for node in same]),
    }
    attributes = {}
    for name, (body, outputs) in branches.items():
        for value, output in zip(values, outputs, strict=True):
            output.type, output.shape = value.type, value.shape
        graph = ir.Graph([], list(outputs), nodes=list(body), name=namer(name))
        attributes[name] = ir.AttrGraph(name, graph)
    chosen = new_node(
        "If",
        [switch],
        name=namer("either"),
        outputs=[namer(f"{value.name}_either") for value in values],
        attributes=attributes,
    )
    for value, result in zip(values, chosen.outputs, strict=True):
        result.type, result.shape = value.type, value.shape
    return chosen


def _inside(chosen: ir.Node) -> list[ir.Node]:
    """Return the nodes of the branches of an If."""
    return [n for attr in chosen.attributes.values() for n in attr.as_graph()]
