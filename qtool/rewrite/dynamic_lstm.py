"""Write com.microsoft DynamicQuantizeLSTM: int8 weights, activations quantized at run time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import new_node, take_over
from qtool.plan.model import Site
from qtool.rewrite.weights import rounded
from qtool.rewrite.writer import Writer, home

# The fused node takes W as [D, I, 4H] where ONNX's LSTM has [D, 4H, I]; the scales stay [D, 4H].
# Inputs: X W R B sequence_lens initial_h initial_c P W_scale W_zero_point R_scale R_zero_point
# (onnxruntime docs/ContribOperators.md). It has no attribute `layout`.
_DROPPED_ATTRIBUTES = frozenset({"layout"})
_INPUTS_BEFORE_SCALES = 8


def write_dynamic_quantize_lstm(writer: Writer, node: ir.Node) -> None:
    """Replace an LSTM with constant W [D, 4H, I] and R [D, 4H, H] by its fused dynamic form."""
    writer.use_contrib()
    namer = writer.namer
    inputs: list[ir.Value | None] = list(node.inputs) + [None] * (_INPUTS_BEFORE_SCALES - len(node.inputs))
    scales: list[ir.Value | None] = []
    for index in (1, 2):
        value = node.inputs[index]
        site = writer.sites_of[node.name or "", index]
        if value is None:
            raise KeyError(f"LSTM '{node.name}' has no weight at input {index}")
        q, scale, zero_point = _initializers(writer, home(node), value, site)
        inputs[index] = q
        scales += (scale, zero_point)
    fused = new_node(
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        name=namer(f"{node.name}_quantized"),
        outputs=[namer(f"{v.name}_fused") if v.name else "" for v in node.outputs],
        domain="com.microsoft",
        attributes={k: a for k, a in node.attributes.items() if k not in _DROPPED_ATTRIBUTES},
    )
    home(node).insert_before(node, fused)
    for old, new in zip(node.outputs, fused.outputs, strict=True):
        take_over(old, new, namer)
    home(node).remove(node, safe=True)


def _initializers(
    writer: Writer, graph: ir.Graph, value: ir.Value, site: Site
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return a weight [D, R, C] as integers [D, C, R], its scale and its zero_point [D, R]."""
    q, qparams = rounded(writer, site)
    name, key = site.value, (site.value, site.spec)
    zeros = np.zeros(qparams.scale.shape, q.dtype)
    return (
        writer.once(("lstm", *key), graph, f"{name}_quantized", q.transpose(0, 2, 1)),
        writer.once(("lstm scale", *key), graph, f"{name}_scale", qparams.scale),
        writer.once(("lstm zero point", *key), graph, f"{name}_zero_point", zeros),
    )
