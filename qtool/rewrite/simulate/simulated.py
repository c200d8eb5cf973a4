"""A float model that computes what a plan's quantized one does, under the names of the prepared one.

Integer kernels give nothing of what lies between a product and what is fused with it. Here every value is at
hand as the quantized model has it, and weights and biases can be changed where they lie.
"""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.edit import Namer, insert_after_value, owner, take_output_name
from qtool.graph.view import View
from qtool.plan.model import OBSERVED, WEIGHTS, Plan, Site, Use
from qtool.plan.resolve import dequantized
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.rewrite.simulate.rounding import halving, read, rounding
from qtool.rewrite.writer import Writer, float_array, redirect
from qtool.tables.targets import TARGETS


def simulated(model: ir.Model, plan: Plan) -> ir.Model:
    """A clone of the prepared model whose weights and activations have the values that a plan gives them.

    A value keeps its name where it is made; who gets it rounded reads another one. Biases are as they were,
    without the plan's corrections: what int32 takes from them is nothing beside the rest. Of an LSTM the
    weights alone are rounded. onnxruntime would round weights once more: open it with `integers=False`.
    """
    clone = model.clone()
    split_outlier_columns(clone, plan)
    writer = Writer(View(clone), Namer(clone), TARGETS[plan.target], {})
    for site in plan.sites:
        if site.kind in WEIGHTS:
            _restore(writer, site)
        elif site.kind in OBSERVED:
            value = read(writer, site)
            _put(writer, value, rounding(writer, site, value), site.uses)
    for name, ports in plan.fp16.nodes.items():
        for index in ports.outputs:
            value = writer.view.node_by_name[name].outputs[index]
            _put(writer, value, halving(writer.namer, value), None)
    return clone


def _restore(writer: Writer, site: Site) -> None:
    value = writer.view.values[site.value]
    array = dequantized(site, float_array(value))
    new = writer.once(("restored", site.value, site.spec), owner(value), f"{site.value}_restored", array)
    redirect(writer, site.uses, value, new)


def _put(writer: Writer, value: ir.Value, nodes: list[ir.Node], uses: tuple[Use, ...] | None) -> None:
    """Let readers of a value read what the nodes make of it; None: all, whoever runs the model included."""
    result = nodes[-1].outputs[0]
    result.type, result.shape = value.type, value.shape
    insert_after_value(value, nodes, owner(value))
    redirect(writer, uses, value, result, keep=nodes)
    if uses is None:
        take_output_name(value, result, writer.namer)
