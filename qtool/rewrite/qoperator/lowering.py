"""Put integer operators in the place of float nodes: the helpers of all lowerings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, new_node, owner
from qtool.graph.view import constant, opset_of
from qtool.rewrite.qoperator.patterns import Grid, Result


class Lowering:
    """The state of one pass from QDQ to integer operators.

    Args:
        model: edited in place.
        contrib: whether the runtime has the operators of com.microsoft.
    """

    def __init__(self, model: ir.Model, contrib: bool) -> None:
        self.contrib = contrib
        self.opset = opset_of(model)
        self.namer = Namer(model)
        self._transposed: dict[ir.Value, ir.Value] = {}

    def replace(
        self,
        node: ir.Node,
        to: Result,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        domain: str = "",
        attributes: Mapping[str, ir.Attr] | None = None,
    ) -> None:
        """Replace a node, and the clamp and Q behind it, by an operator whose result is integers."""
        name = self.namer(f"{node.name}_quantized")
        out = self.namer(f"{node.outputs[0].name}_quantized")
        made = new_node(op_type, inputs, name=name, outputs=[out], domain=domain, attributes=attributes)
        _declare(made, node, to.grid)
        nodes = [made]
        if to.clamp is not None and to.bounds is not None:
            nodes.append(self.clip(to.clamp, made.outputs[0], to.bounds, to.grid))
        insert_before(node, nodes)
        take_place(to.q.outputs[0], nodes[-1].outputs[0], self.namer)
        remove([to.q, to.clamp, node])

    def clip(self, clamp: ir.Node, integers: ir.Value, bounds: tuple[int, int], grid: Grid) -> ir.Node:
        """Return a Relu or Clip as a Clip of integers; not yet in any graph."""
        graph, ends = owner(grid.scale), np.iinfo(grid.type)
        inputs: list[ir.Value | None] = [integers]
        for bound, end, what in zip(bounds, (ends.min, ends.max), ("lowest", "highest"), strict=True):
            name, limit = f"{clamp.name}_{what}", np.asarray(bound, grid.type)
            inputs.append(None if bound == end else add_initializer(graph, self.namer(name), limit))
        while inputs[-1] is None:
            inputs.pop()
        name, out = self.namer(f"{clamp.name}_quantized"), self.namer(f"{clamp.outputs[0].name}_clipped")
        made = new_node("Clip", inputs, name=name, outputs=[out])
        _declare(made, clamp, grid)
        return made

    def transposed(self, value: ir.Value) -> ir.Value:
        """Return a constant [N, K] as [K, N], in the file once for all its consumers."""
        if value not in self._transposed:
            array = np.asarray(constant(value)).T
            name = self.namer(f"{value.name}_transposed")
            self._transposed[value] = add_initializer(owner(value), name, array)
        return self._transposed[value]


def _declare(made: ir.Node, node: ir.Node, grid: Grid) -> None:
    """Give the result of a new node the shape of an old one, and the type of a grid."""
    made.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(np.dtype(grid.type)))
    made.outputs[0].shape = node.outputs[0].shape


def insert_before(node: ir.Node, nodes: Iterable[ir.Node]) -> None:
    """Put nodes where a node is."""
    if not isinstance(node.graph, ir.Graph):
        raise KeyError(f"'{node.name}' is in no graph")
    node.graph.insert_before(node, list(nodes))


def take_place(old: ir.Value, new: ir.Value, namer: Namer) -> None:
    """Let all consumers of a value read another, which takes its name."""
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = namer(f"{name}_replaced")
    new.name = name


def remove(nodes: Iterable[ir.Node | None]) -> None:
    """Take nodes out of their graphs; consumers come before producers."""
    for node in nodes:
        if node is not None and isinstance(node.graph, ir.Graph):
            node.graph.remove(node, safe=True)
