"""Layer norms, written out, that onnxruntime would fuse into one of two types and then refuse.

    X -> (Cast) -> ReduceMean -> Sub -> Pow -> ReduceMean -> Add -> Sqrt -> Div -> Mul -> Add
                                    `---------------------------------'

Its LayerNormFusion (1.31) looks through Casts: one before the norm that nobody else reads becomes part of
the fused op, whatever it casts from, and so do those inside. Where input, scale and bias then differ in
type, the session can't be made. A Max with -inf changes nothing, and no optimizer sees through it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, owner
from qtool.graph.view import is_op

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def guard_norms(model: ir.Model, namer: Namer) -> None:
    """Keep the runtime from fusing what is of two types; behind the Cast before the norm if that will do."""
    for node in list(model.graph.all_nodes()):
        if is_op(node, "ReduceMean") and (value := _torn(node)) is not None:
            _guard(value, namer)


def _torn(mean: ir.Node) -> ir.Value | None:
    """The value to guard in the norm that begins with this ReduceMean, if any."""
    x = mean.inputs[0]
    subs = _readers(mean.outputs[0])
    if x is None or not all(is_op(n, "Sub") and x in n.inputs for n in subs):
        return None
    for division in (n for sub in subs for n in _past_casts(sub.outputs[0]) if is_op(n, "Div")):
        for scale in (n for n in _past_casts(division.outputs[0]) if is_op(n, "Mul")):
            for bias in (n for n in _past_casts(scale.outputs[0]) if is_op(n, "Add")):
                ends = {scale.outputs[0].dtype, bias.outputs[0].dtype}
                alone = len(x.uses()) == len(subs) + 1
                if (_before_casts(x) if alone else {x.dtype}) | ends == {_FLOAT, _HALF}:
                    return x if ends == {x.dtype} else division.outputs[0]
    return None


def _before_casts(value: ir.Value) -> set[ir.DataType | None]:
    """The types that a value is cast from, or its own; an If may be inlined, and so show the Cast in it."""
    maker = value.producer()
    if maker is not None and is_op(maker, "If"):
        index = value.index() or 0
        outputs = [a.as_graph().outputs[index] for a in maker.attributes.values()]
        return set().union(*map(_before_casts, outputs))
    source = maker.inputs[0] if maker is not None and is_op(maker, "Cast") else None
    return {value.dtype if source is None else source.dtype}


def _readers(value: ir.Value) -> list[ir.Node]:
    return [use.node for use in value.uses()]


def _past_casts(value: ir.Value) -> Iterator[ir.Node]:
    """Who reads a value, as it is or cast."""
    for node in _readers(value):
        yield from _past_casts(node.outputs[0]) if is_op(node, "Cast") else (node,)


def _guard(value: ir.Value, namer: Namer) -> None:
    """Let everybody who reads a value read Max(value, -inf) instead."""
    floor = np.asarray(-np.inf, np.float16 if value.dtype == _HALF else np.float32)
    low = add_initializer(owner(value), namer(f"{value.name}_guard_floor"), floor)
    name, output = namer(f"{value.name}_guard"), namer(f"{value.name}_guarded")
    guard = new_node("Max", [value, low], name=name, outputs=[output])
    made = guard.outputs[0]
    made.type, made.shape = value.type, value.shape
    for use in value.uses():
        if use.node is not guard:
            use.node.replace_input_with(use.idx, made)
    insert_after_value(value, [guard], owner(value))
