"""Fold a Pad into the padding of the convolution or pool after it.

Frameworks with 'same' padding export a Pad before each convolution with a stride. A Pad has no integer
kernel, so it would keep the convolution out of an int8 region. onnxruntime fuses the two itself, and then
quantizes the float convolution between a DQ and a Q per tensor.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.view import attribute_float, attribute_int, constant, is_op, is_read, rank
from qtool.tables.ops import OPS

# A MaxPool pads with minus infinity; exporters write the lowest float32, -3.4e38.
_LOWEST = -3e38


def fold_pads(model: ir.Model) -> str:
    """Pad(x) -> Conv, AveragePool or MaxPool becomes the op with pads: the same numbers.

    1. Only constant pads of the spatial axes, none negative, in mode 'constant'.
    2. A Conv takes zeros. An AveragePool takes zeros, which it then counts.
    3. A MaxPool takes the lowest float, or zeros where its input has no negative values. Each of its windows
       must hold a value of the input.
    4. Not where the op computes its own padding (auto_pad SAME_*).
    """
    folded = 0
    for node in model.graph.all_nodes():
        while is_op(node, "Conv", "AveragePool", "MaxPool") and _fold(node):
            folded += 1
    return f"{folded} Pads folded into convolutions and pools" if folded else ""


def _fold(node: ir.Node) -> bool:
    """Fold the Pad before a node into it, if there is one and the result is the same."""
    source = node.inputs[0]
    pad = source.producer() if source is not None else None
    if source is None or pad is None or not is_op(pad, "Pad") or pad.inputs[0] is None:
        return False
    auto = node.attributes.get("auto_pad")
    if auto is not None and auto.as_string() not in ("NOTSET", "VALID"):
        return False
    widths = _widths(pad, rank(node.inputs[1]) if is_op(node, "Conv") else rank(source))
    if widths is None or len(widths) < 6 or not any(widths):
        return False
    axes = len(widths) // 2
    outer = (0, 1, axes, axes + 1)
    if min(widths) < 0 or any(widths[i] for i in outer):
        return False
    added = [n for i, n in enumerate(widths) if i not in outer]
    own = node.attributes.get("pads") if auto is None or auto.as_string() == "NOTSET" else None
    before = [0] * len(added) if own is None else list(own.as_ints())
    if len(before) != len(added) or not _takes(node, pad, added, before):
        return False
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(added, before, strict=True)])
    if is_op(node, "AveragePool"):
        node.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    node.replace_input_with(0, pad.inputs[0])
    return True


def _widths(pad: ir.Node, axes: int | None) -> list[int] | None:
    """Return the widths before each axis, then after each; None where they or the mode are not constant."""
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return None
    attribute = pad.attributes.get("pads")  # before opset 11
    if attribute is not None:
        return list(attribute.as_ints())
    array = constant(pad.inputs[1]) if len(pad.inputs) > 1 else None
    if array is None:
        return None
    values = [int(n) for n in array.reshape(-1)]
    if len(pad.inputs) < 4 or pad.inputs[3] is None:
        return values
    chosen = constant(pad.inputs[3])
    if chosen is None or axes is None or 2 * chosen.size != len(values):
        return None
    widths = [0] * (2 * axes)
    for index, axis in enumerate(chosen.reshape(-1)):
        widths[int(axis) % axes] = values[index]
        widths[int(axis) % axes + axes] = values[index + chosen.size]
    return widths


def _fill(pad: ir.Node) -> float | None:
    """Return the number that a Pad fills with; None where it is computed."""
    if len(pad.inputs) < 3 or pad.inputs[2] is None:
        return attribute_float(pad, "value", 0.0)
    array = constant(pad.inputs[2])
    return None if array is None or array.size != 1 else float(array.reshape(-1)[0])


def _takes(node: ir.Node, pad: ir.Node, added: list[int], before: list[int]) -> bool:
    """Return whether a node computes the same with the added widths as its own padding."""
    fill = _fill(pad)
    if fill is None:
        return False
    if is_op(node, "Conv"):
        return fill == 0
    kernel = node.attributes.get("kernel_shape")
    dilations = node.attributes.get("dilations")
    if kernel is None or attribute_int(node, "ceil_mode", 0):
        return False
    if dilations is not None and any(d != 1 for d in dilations.as_ints()):
        return False
    sizes = list(kernel.as_ints()) * 2
    if any(a + b >= size for a, b, size in zip(added, before, sizes, strict=True)):
        return False  # runtimes refuse a padding as wide as the window
    if is_op(node, "AveragePool"):
        return fill == 0 and (not any(before) or bool(attribute_int(node, "count_include_pad", 0)))
    if any(is_read(v) for v in node.outputs[1:]):
        return False  # the places of the largest values
    return fill <= _LOWEST or (fill == 0 and not any(before) and _never_negative(pad.inputs[0]))


def _never_negative(value: ir.Value | None) -> bool:
    """Return whether no value is below zero: after a Clip from 0, or an op with that bound, as Relu."""
    node = value.producer() if value is not None else None
    if node is None:
        return False
    if is_op(node, "Clip"):
        low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        least = attribute_float(node, "min", -np.inf) if low is None else float(low.reshape(-1)[0])
        return least >= 0
    rule = OPS.get(node.op_type)
    return rule is not None and is_op(node, node.op_type) and rule.bounds[0] >= 0
