"""A float model that computes the values of a quantized one, under the names of the prepared model.

Fused integer kernels hide the values between a product and the nodes fused with it. This model has every
value, and its weights and biases can be changed in place.
"""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.edit import Namer, insert_after_value, owner, take_output_name
from qtool.graph.view import View
from qtool.plan.model import OBSERVED, WEIGHTS, Plan, Site, Use
from qtool.plan.resolve import dequantized
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.rewrite.simulate.rounding import fake_quantize, read_value, round_to_float16
from qtool.rewrite.writer import Writer, float_array, redirect
from qtool.tables.targets import TARGETS


def simulated(model: ir.Model, plan: Plan) -> ir.Model:
    """Return a clone of the prepared model with weights and activations rounded as a plan quantizes them.

    A value keeps its name at its producer; its quantized consumers read a rounded copy. Biases stay in float,
    without the corrections of the plan: the error of int32 is negligible. Of an LSTM only the weights are
    rounded. onnxruntime would round weights once more: open the model with `integers=False`.
    """
    clone = model.clone()
    split_outlier_columns(clone, plan)
    writer = Writer(View(clone), Namer(clone), TARGETS[plan.target], {})
    for site in plan.sites:
        if site.kind in WEIGHTS:
            _restore(writer, site)
        elif site.kind in OBSERVED:
            value = read_value(writer, site)
            _insert(writer, value, fake_quantize(writer, site, value), site.uses)
    for name, ports in plan.fp16.nodes.items():
        for index in ports.outputs:
            value = writer.view.node_by_name[name].outputs[index]
            _insert(writer, value, round_to_float16(writer.namer, value), None)
    return clone


def _restore(writer: Writer, site: Site) -> None:
    value = writer.view.values[site.value]
    array = dequantized(site, float_array(value))
    new = writer.once(("restored", site.value, site.spec), owner(value), f"{site.value}_restored", array)
    redirect(writer, site.uses, value, new)


def _insert(writer: Writer, value: ir.Value, nodes: list[ir.Node], uses: tuple[Use, ...] | None) -> None:
    """Let consumers of a value read the result of nodes; `uses` None: all, outputs of the model included."""
    result = nodes[-1].outputs[0]
    result.type, result.shape = value.type, value.shape
    insert_after_value(value, nodes, owner(value))
    redirect(writer, uses, value, result, keep=nodes)
    if uses is None:
        take_output_name(value, result, writer.namer)
