"""The writer of com.microsoft DynamicQuantizeLSTM: int8 weights, activations quantized at run time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer, new_node, owner
from qtool.graph.view import float_constant
from qtool.numerics.quantize import quantize
from qtool.plan.model import Site

# The fused node takes W as [D, I, 4H] where ONNX's LSTM has [D, 4H, I]; the scales stay [D, 4H].
# Inputs: X W R B sequence_lens initial_h initial_c P W_scale W_zero_point R_scale R_zero_point
# (onnxruntime docs/ContribOperators.md). `layout` it does not have.
_DROPPED_ATTRIBUTES = frozenset({"layout"})
_INPUTS_BEFORE_SCALES = 8

Fused = tuple[ir.Value, ir.Value, ir.Value]


def fuse_lstm(node: ir.Node, sites: Mapping[str, Site], namer: Namer, made: dict[str, Fused]) -> None:
    """Replace an LSTM by its fused dynamic form.

    Args:
        node: the LSTM, with constant W [D, 4H, I] and R [D, 4H, H].
        sites: the FUSED sites by value name; scales [D, 4H].
        namer: free names.
        made: what other LSTMs have made of a weight that this one may share; added to.
    """
    inputs: list[ir.Value | None] = list(node.inputs) + [None] * (_INPUTS_BEFORE_SCALES - len(node.inputs))
    scales: list[ir.Value | None] = []
    for index in (1, 2):
        value = node.inputs[index]
        array = float_constant(value)
        if value is None or array is None:
            raise KeyError(f"LSTM '{node.name}' has no constant weight at input {index}")
        name = value.name or ""
        if name not in made:
            made[name] = _initializers(owner(value), sites[name], array, namer)
        inputs[index] = made[name][0]
        scales += made[name][1:]
    fused = new_node(
        "DynamicQuantizeLSTM",
        [*inputs, *scales],
        name=namer(f"{node.name}_quantized"),
        outputs=[namer(f"{v.name}_fused") if v.name else "" for v in node.outputs],
        domain="com.microsoft",
        attributes={k: a for k, a in node.attributes.items() if k not in _DROPPED_ATTRIBUTES},
    )
    graph_of_node = node.graph
    if graph_of_node is None:
        raise KeyError(f"LSTM '{node.name}' is in no graph")
    graph_of_node.insert_before(node, fused)
    for old, new in zip(node.outputs, fused.outputs, strict=True):
        known_as = old.name
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = namer(f"{known_as}_float") if known_as else known_as
        new.name = known_as
    graph_of_node.remove(node, safe=True)


def _initializers(graph: ir.Graph, site: Site, array: NDArray[np.float32], namer: Namer) -> Fused:
    """A weight [D, R, C] as integers [D, C, R], its scale and its zero_point [D, R]."""
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    q = quantize(array, site.qparams, site.spec.qtype, site.spec.granularity)
    zeros = np.zeros(site.qparams.scale.shape, q.dtype)
    return (
        add_initializer(graph, namer(f"{site.value}_quantized"), q.transpose(0, 2, 1)),
        add_initializer(graph, namer(f"{site.value}_scale"), site.qparams.scale),
        add_initializer(graph, namer(f"{site.value}_zero_point"), zeros),
    )
