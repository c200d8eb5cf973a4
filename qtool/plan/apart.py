"""Where the float result of an int8 product must be kept from what reads it, lest the runtime not fuse it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir

from qtool.graph.view import View, is_op
from qtool.plan.model import Kind, Site, Use
from qtool.plan.placed import Placed
from qtool.tables.forms import Form
from qtool.tables.ops import Q_MOVES_UP_THROUGH
from qtool.tables.qtypes import FLOAT32, PER_TENSOR, TensorSpec

_CLAMPS = ("Relu", "Clip")


def apart(view: View, placed: Placed, sites: Sequence[Site]) -> Iterator[Site]:
    """The results that need a guard between the product and its readers; `sites`: what is quantized already.

    onnxruntime (1.31) fuses an int8 MatMul or Gemm that hands on floats, but not where a Q is one of several
    readers, nor where a clamp is the only one and has itself one reader that is no Q: it takes the clamp for
    the tail of a group that ends in a Q. The product then runs in float behind DequantizeLinears, its
    weight's as well, at 0.25-0.5x of FP32. A Max with a constant that is below everything is a reader like
    any other, at a tenth of what the product takes (docs/targets.md).
    """
    if not placed.scheme.target.onnxruntime:
        return
    activations = [s for s in sites if s.kind is Kind.ACTIVATION]
    whole = {s.value for s in activations if s.uses is None}
    quantized = {use for s in activations for use in s.uses or ()}
    biases = [s for s in sites if s.kind is Kind.BIAS]
    added = {s.scale_from[1]: name for s in biases if s.scale_from for name, _ in s.uses or ()}
    for node in view.main_nodes:
        name = node.name or ""
        found = placed.chosen.get(name)
        floats = found is not None and found.form is Form.INT8 and not placed.quantizes_output(node)
        if not floats or not is_op(node, "MatMul", "Gemm"):
            continue
        value = view.node_by_name[added.get(name, name)].outputs[0]
        if value.name not in whole and _comes_apart(value, quantized):
            spec = TensorSpec(FLOAT32, PER_TENSOR, symmetric=True)
            yield Site(value.name or "", Kind.APART, None, spec)


def _comes_apart(value: ir.Value, quantized: Collection[Use]) -> bool:
    uses = list(value.uses())
    if all((use.node.name or "", use.idx) in quantized for use in uses):
        return value.is_graph_output() and bool(uses)
    if any(_ends_in_q(use.node, use.idx, quantized) for use in uses):
        return len(uses) > 1 or value.is_graph_output()
    if len(uses) != 1 or not is_op(uses[0].node, *_CLAMPS):
        return False
    clamped = uses[0].node.outputs[0]
    return len(clamped.uses()) == 1 and not clamped.is_graph_output()


def _ends_in_q(node: ir.Node, index: int, quantized: Collection[Use]) -> bool:
    """Whether a Q reads a value by way of this input: at once, or through clamps and moves that it passes."""
    if (node.name or "", index) in quantized:
        return True
    if index or not is_op(node, *_CLAMPS, *Q_MOVES_UP_THROUGH):
        return False
    made = node.outputs[0]
    uses = [(use.node, use.idx) for use in made.uses()]
    return bool(uses) and not made.is_graph_output() and all(_ends_in_q(n, i, quantized) for n, i in uses)
