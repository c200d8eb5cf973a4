"""Write a model whose scales follow an input: tables of constants, and a Gather that chooses at run time.

onnxruntime fuses DequantizeLinear -> Conv -> QuantizeLinear only if scales are constant: integer operators,
which read their scales at run time, are written instead (rewrite/qoperator/).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.errors import ModelError
from qtool.graph.edit import Namer, add_initializer, new_node
from qtool.plan.model import Steps


def choose_by_step(models: Sequence[ir.Model], steps: Steps) -> ir.Model:
    """Return the first model, with every constant that differs between the models read from a table.

    Args:
        models: one for each bucket of steps, alike but for the values of constants.
        steps: of the plan.

    Raises:
        ModelError: their graphs differ in more than that.
    """
    result = models[0]
    if any(_structure(model) != _structure(result) for model in models[1:]):
        raise ModelError(
            f"the steps of '{steps.input}' need different graphs",
            "--exclude the nodes with a Clip behind them, or leave --timestep out",
        )
    graph, namer = result.graph, Namer(result)
    tables = {}
    for name in graph.initializers:
        first, *others = (_array(model, name) for model in models)
        if any(array.tobytes() != first.tobytes() for array in others):
            tables[name] = np.stack([first, *others])
    if not tables:
        return result
    nodes = _bucket(graph, steps, namer)
    bucket = nodes[-1].outputs[0]
    for name, table in tables.items():
        old = graph.initializers.pop(name)
        # The names begin with the input's: the audit would take them for parts of the node that they scale.
        name = f"{steps.input}/{name}"
        held = add_initializer(graph, namer(f"{name}_table"), table)
        gather = new_node("Gather", [held, bucket], name=namer(f"{name}_Gather"), outputs=[namer(name)])
        gather.outputs[0].type, gather.outputs[0].shape = old.type, old.shape
        old.replace_all_uses_with(gather.outputs[0])
        nodes.append(gather)
    graph.insert_before(next(iter(graph)), nodes)
    return result


def _bucket(graph: ir.Graph, steps: Steps, namer: Namer) -> list[ir.Node]:
    """Return the nodes that compute the bucket [] int64 of the step: the number of bounds that it reaches."""
    step = next(value for value in graph.inputs if value.name == steps.input)
    bounds = add_initializer(graph, namer(f"{steps.input}_bounds"), np.asarray(steps.bounds, np.float32))
    name = steps.input
    once: dict[str, ir.Attr] = {"keepdims": ir.AttrInt64("keepdims", 0)}
    nodes: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value], attributes: dict[str, ir.Attr] | None = None) -> ir.Value:
        node = new_node(
            op,
            inputs,
            name=namer(f"{name}_{op}"),
            outputs=[namer(f"{name}_{op}_output")],
            attributes=attributes,
        )
        nodes.append(node)
        return node.outputs[0]

    number = add("Cast", [step], {"to": ir.AttrInt64("to", ir.DataType.FLOAT)})
    greatest = add("ReduceMax", [number], once)
    reached = add("GreaterOrEqual", [greatest, bounds])
    add("ReduceSum", [add("Cast", [reached], {"to": ir.AttrInt64("to", ir.DataType.INT64)})], once)
    return nodes


def _array(model: ir.Model, name: str) -> NDArray[Any]:
    tensor = model.graph.initializers[name].const_value
    if tensor is None:
        raise KeyError(f"the initializer '{name}' has no value")
    return tensor.numpy()


def _structure(model: ir.Model) -> list[object]:
    """Return all nodes and the names of their inputs, and the types and shapes of constants."""
    return [
        *((n.op_type, n.name, [v.name if v is not None else "" for v in n.inputs]) for n in model.graph),
        *((name, v.dtype, v.shape) for name, v in model.graph.initializers.items()),
    ]
