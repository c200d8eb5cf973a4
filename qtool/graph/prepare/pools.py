"""Normalize pools for quantized kernels: global where they cover the map, without dilations of 1."""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.view import attribute_int, is_op, is_read

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
