"""Layer norms, written out, that onnxruntime would fuse into one of two types and then refuse.

Its LayerNormFusion (1.31) takes a Cast before the norm into the fused op, whatever it casts from, and a
Cast between the division and the scale: where input, scale and bias then differ in type, the session
can't be made. A Max with -inf, which changes nothing and which no optimizer sees through, keeps it off.

    X -> (Cast) -> ReduceMean -> Sub -> Pow -> ReduceMean -> Add -> Sqrt -> Div -> (Cast) -> Mul -> Add
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from qtool.graph.view import View, is_op, sole_consumer
from qtool.plan.half_ports import Ports, is_blind


def torn_norms(view: View, ports: Mapping[str, Ports], io_half: bool) -> frozenset[str]:
    """The values whose float32 form needs a guard: what enters a norm, else what its division makes."""
    guards = set()
    for node in view.nodes:
        if not is_op(node, "ReduceMean") or node.inputs[0] is None:
            continue
        x = node.inputs[0]
        subs = [use.node for use in node.outputs[0].uses()]
        norm = _scale_and_bias(subs) if subs and all(is_op(n, "Sub") for n in subs) else None
        if norm is None or any(x not in sub.inputs for sub in subs):
            continue
        divided, scale, bias = norm
        ends = {_reads_half(scale, ports), _reads_half(bias, ports)}
        entering = _reads_half(node, ports) or _enters_half(x, len(subs) + 1, ports, view, io_half)
        if ends | {entering} != {entering}:
            whole = ends == {False} and entering and not _reads_half(node, ports)
            guards.add((x if whole else divided).name or "")
    return frozenset(guards)


def _scale_and_bias(subs: list[ir.Node]) -> tuple[ir.Value, ir.Node, ir.Node] | None:
    """What the division makes, and the Mul and the Add behind it, of the norm that begins with these Subs."""
    divisions = [use.node for sub in subs for use in sub.outputs[0].uses() if is_op(use.node, "Div")]
    if not divisions:
        return None
    divided = divisions[0].outputs[0]
    scale = sole_consumer(divided)
    bias = sole_consumer(scale.outputs[0]) if is_op(scale, "Mul") and scale is not None else None
    if scale is None or bias is None or not is_op(bias, "Add"):
        return None
    return divided, scale, bias


def _reads_half(node: ir.Node, ports: Mapping[str, Ports]) -> bool:
    """Whether a node is float16: by placement, or because the model has it so."""
    if node.name in ports:
        return bool(ports[node.name or ""].reads)
    return any(v is not None and v.dtype == ir.DataType.FLOAT16 for v in node.inputs)


def _enters_half(x: ir.Value, readers: int, ports: Mapping[str, Ports], view: View, io_half: bool) -> bool:
    """Whether a Cast from float16 will stand before the norm, read by the norm alone."""
    maker = x.producer()
    if is_op(maker, "Cast") and maker is not None and maker.inputs[0] is not None:
        return maker.inputs[0].dtype == ir.DataType.FLOAT16
    if maker is None:
        half = io_half and x.graph is view.model.graph
    else:
        half = x.index() in ports[maker.name or ""].makes if maker.name in ports else False
    floats = [(use.node, use.idx) for use in x.uses() if not is_blind(use.node, use.idx)]
    floats = [(node, index) for node, index in floats if not _in(ports, node, index)]
    return half and len(floats) == readers and not x.is_graph_output()


def _in(ports: Mapping[str, Ports], node: ir.Node, index: int) -> bool:
    return node.name in ports and index in ports[node.name or ""].reads
