"""The fusion barriers of layer norms, which the plan lists (plan/fp16/norms.py)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, owner
from qtool.plan.model import GraphEdit


def write_norm_barrier(
    values: Mapping[str, ir.Value], nodes: Mapping[str, ir.Node], edit: GraphEdit, namer: Namer
) -> None:
    """Let the consumers of a value read Max(value, -inf), behind the Cast that they share, if any.

    Args:
        values, nodes: of the model, by the names that they have in the plan.
    """
    value = values[edit.value]
    for name, index in (edit.uses or ())[:1]:
        read = nodes[name].inputs[index]
        value = read if read is not None else value
    floor = np.asarray(-np.inf, np.float16 if value.dtype == ir.DataType.FLOAT16 else np.float32)
    low = add_initializer(owner(value), namer(f"{value.name}_guard_floor"), floor)
    name, output = namer(f"{value.name}_guard"), namer(f"{value.name}_guarded")
    guard = new_node("Max", [value, low], name=name, outputs=[output])
    made = guard.outputs[0]
    made.type, made.shape = value.type, value.shape
    for use in value.uses():
        if use.node is not guard:
            use.node.replace_input_with(use.idx, made)
    insert_after_value(value, [guard], owner(value))
