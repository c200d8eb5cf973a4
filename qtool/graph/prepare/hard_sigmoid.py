"""Fuse a HardSigmoid that is written in small ops, as in MobileNetV3 and PP-LCNet, into one op.

onnxruntime runs Add, Clip and Div one after the other: three passes over memory. It makes HardSigmoid, and
HardSigmoid and Mul, part of the convolution before it (docs/targets.md has measurements).

    clip(a x + b, 0, h) / h = max(0, min(1, a/h x + b/h))
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, new_node, replace_node
from qtool.graph.prepare.channels import absorb
from qtool.graph.view import float_constant, is_op, rank, sole_consumer

_AFFINE = ("Add", "Sub", "Mul", "Div")
_TOLERANCE = 1e-5  # exporters write 1/6 with six digits or more


def fuse_hard_sigmoids(model: ir.Model) -> str:
    """Replace each clip(a x + b, 0, h) / h, and x clip(a x + b, 0, h) / h, by HardSigmoid and Mul.

    1. a, b and h are numbers, and no other node reads the values between.
    2. At least two ops become one: a Clip between 0 and 1 of x itself stays.
    """
    namer = Namer(model)
    fused = sum(_fuse(node, namer) for node in list(model.graph.all_nodes()) if is_op(node, "Clip"))
    return f"{fused} written-out HardSigmoids fused" if fused else ""


def _fuse(clip: ir.Node, namer: Namer) -> bool:
    """Replace a Clip, with the scales and shifts before and after it, where the result is a HardSigmoid."""
    low, high = (_number(clip, i) for i in (1, 2))
    if low != 0 or high is None or not 0 < high < math.inf:
        return False
    division = None if high == 1 else _division(clip, high)
    if high != 1 and division is None:
        return False
    x, scale, shift, steps = _affine(clip)
    if x is None or scale == 0 or steps + (division is not None) == 0:
        return False
    name = namer(f"{clip.name}_HardSigmoid")
    attributes = {k: ir.AttrFloat32(k, v / high) for k, v in (("alpha", scale), ("beta", shift))}
    fused = new_node("HardSigmoid", [x], name=name, outputs=[namer(f"{name}_output")], attributes=attributes)
    replace_node(clip, [fused], clip.outputs[0], fused.outputs[0], namer)
    if division is not None:
        index, node = division
        data = node.inputs[index]
        if data is not None:
            absorb(node, data)
    return True


def _affine(clip: ir.Node) -> tuple[ir.Value | None, float, float, int]:
    """Return x, a, b and the number of nodes, where a Clip's input is a x + b."""
    x, scale, shift, steps = clip.inputs[0], 1.0, 0.0, 0
    while x is not None and sole_consumer(x) is not None:
        node = x.producer()
        if node is None or not is_op(node, *_AFFINE):
            break
        index = 1 if _number(node, 0) is not None and is_op(node, "Add", "Mul") else 0
        number = _number(node, 1 - index)
        if number is None or (number == 0 and is_op(node, "Div")):
            break
        if is_op(node, "Add", "Sub"):
            shift += scale * (number if node.op_type == "Add" else -number)
        else:
            scale *= number if node.op_type == "Mul" else 1 / number
        x, steps = node.inputs[index], steps + 1
    return x, scale, shift, steps


def _division(clip: ir.Node, high: float) -> tuple[int, ir.Node] | None:
    """Return the node that divides by a Clip's upper bound, behind at most one Mul, and its data input."""
    node = sole_consumer(clip.outputs[0])
    for _ in range(2):
        if node is None:
            return None
        for index in range(2):
            number = _number(node, 1 - index)
            if number is not None:
                factor = (
                    number if node.op_type == "Mul" else 1 / number if node.op_type == "Div" and number else 0
                )
                divides = math.isclose(factor * high, 1, rel_tol=_TOLERANCE)
                return (index, node) if divides and (index == 0 or node.op_type == "Mul") else None
        if not is_op(node, "Mul"):
            return None
        node = sole_consumer(node.outputs[0])
    return None


def _number(node: ir.Node, index: int) -> float | None:
    """Return a constant input that is one number and adds no axis to the result; None for others."""
    array = float_constant(node.inputs[index]) if len(node.inputs) > index else None
    if array is None or array.size != 1 or not np.isfinite(array).all():
        return None
    others = [rank(v) for i, v in enumerate(node.inputs) if i != index and v is not None]
    return float(array.reshape(-1)[0]) if array.ndim <= max((r or 0 for r in others), default=0) else None
