"""Normalize pools for quantized kernels: global where they cover the map, without dilations of 1.

Exporters write the mean over a map as ReduceMean, which runs in float; GlobalAveragePool has an int8 kernel.
"""

from __future__ import annotations

import onnx_ir as ir

from qtool.errors import counted
from qtool.graph.edit import Namer, new_node, replace_node
from qtool.graph.view import attribute_int, constant, is_op, is_read

_GLOBAL = {"AveragePool": "GlobalAveragePool", "MaxPool": "GlobalMaxPool"}

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def normalize_pools(model: ir.Model) -> str:
    """Make pools over the whole map global: runtimes have far better kernels for those.

    Only where the spatial shape is known, without padding or dilation. Dilations of 1 are removed:
    onnxruntime (1.31) refuses a QLinearAveragePool with the attribute.
    """
    count = 0
    for node in model.graph.all_nodes():
        if not is_op(node, *_GLOBAL):
            continue
        if not _dilated(node):
            node.attributes.pop("dilations", None)
        if not _is_global(node):
            continue
        node.op_type = _GLOBAL[node.op_type]
        node.attributes.clear()
        count += 1
    return f"{count} pools over the whole map made global" if count else ""


def replace_means(model: ir.Model) -> str:
    """Write a ReduceMean over the whole map of [N, C, H, W] as GlobalAveragePool (-> Flatten).

    Not where a Sub reads the mean: a norm that is written out takes its values from the map.
    """
    namer, count = Namer(model), 0
    for node in list(model.graph.all_nodes()):
        if not _is_mean_of_map(node):
            continue
        source, old = node.inputs[0], node.outputs[0]
        name = namer(f"{node.name}_pool")
        made = [new_node("GlobalAveragePool", [source], name=name, outputs=[namer(f"{name}_output")])]
        pooled = made[0].outputs[0]
        pooled.type = source.type if source is not None else None
        if not attribute_int(node, "keepdims", 1):
            name = namer(f"{node.name}_flatten")
            made.append(new_node("Flatten", [pooled], name=name, outputs=[namer(f"{name}_output")]))
        if source is not None and source.shape is not None:
            pooled.shape = ir.Shape([*source.shape[:2], *[1] * (len(source.shape) - 2)])
        replace_node(node, made, old, made[-1].outputs[0], namer)
        count += 1
    return f"{counted(count, 'mean')} over the whole map written as pools" if count else ""


def _is_mean_of_map(node: ir.Node) -> bool:
    source = node.inputs[0] if is_op(node, "ReduceMean") else None
    if source is None or source.shape is None or len(source.shape) < 4 or source.dtype not in _FLOATS:
        return False
    attribute = node.attributes.get("axes")
    listed = constant(node.inputs[1]) if len(node.inputs) > 1 else None  # an input from opset 18 on
    axes = [] if listed is None else listed.reshape(-1).tolist()
    axes = axes if attribute is None else list(attribute.as_ints())
    rank = len(source.shape)
    if sorted(axis % rank for axis in axes) != list(range(2, rank)):
        return False
    return not any(is_op(use.node, "Sub") for use in node.outputs[0].uses())


def _is_global(node: ir.Node) -> bool:
    source = node.inputs[0]
    kernel = node.attributes.get("kernel_shape")
    if source is None or source.shape is None or kernel is None or any(is_read(v) for v in node.outputs[1:]):
        return False
    if source.dtype not in _FLOATS:
        return False  # MaxPool takes integers, GlobalMaxPool does not
    spatial = list(source.shape)[2:]
    if not all(isinstance(d, int) for d in spatial) or spatial != list(kernel.as_ints()):
        return False
    pads = node.attributes.get("pads")
    auto = node.attributes.get("auto_pad")
    return (
        (pads is None or not any(pads.as_ints()))
        and not _dilated(node)
        and (auto is None or auto.as_string() in ("NOTSET", "VALID"))
        and not attribute_int(node, "ceil_mode", 0)
        and len([v for v in node.outputs if v.name]) == 1
    )


def _dilated(node: ir.Node) -> bool:
    dilations = node.attributes.get("dilations")
    return dilations is not None and any(d != 1 for d in dilations.as_ints())
