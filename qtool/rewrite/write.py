"""Write a resolved plan: one writer for each kind of site, edit and node, and the recipe in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from qtool import __version__
from qtool.graph.edit import Namer
from qtool.graph.view import View, float_constant
from qtool.plan.metadata import hidden_metadata
from qtool.plan.model import EditKind, GraphEdit, Kind, Plan, Site
from qtool.plan.serial import digest
from qtool.plan.steps import at_bucket
from qtool.rewrite.dynamic import (
    write_conv_integer,
    write_dynamic_quantize_matmul,
    write_matmul_integer,
    write_matmul_integer_to_float,
)
from qtool.rewrite.dynamic_lstm import write_dynamic_quantize_lstm
from qtool.rewrite.fp16.writer import write_fp16
from qtool.rewrite.integer_io import write_integer_io
from qtool.rewrite.nbits import write_block_lookup, write_experts, write_nbits
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.rewrite.qdq import (
    reshape_bias,
    write_activation,
    write_bias,
    write_result_barrier,
    write_sum,
    write_weight,
)
from qtool.rewrite.qoperator.lower import lower_to_qoperator
from qtool.rewrite.shared import share_constants
from qtool.rewrite.steps import choose_by_step
from qtool.rewrite.stored import write_lookup, write_stored
from qtool.rewrite.writer import Writer
from qtool.runtime.heartbeat import beat
from qtool.runtime.providers import RUNTIME_KEY, fixed_options, runtime_of
from qtool.tables.forms import Operator
from qtool.tables.qtypes import PerBlock
from qtool.tables.runtimes import DEFAULT
from qtool.tables.targets import TARGETS


def _with_its_node(writer: Writer, site: Site) -> None:
    """Leave a site to the writer of its consumer."""


# One writer for each kind of site, in the order of the plan; then one for each operator.
def _write_table(writer: Writer, site: Site) -> None:
    """Write a table whose rows a Gather picks: with a scale a row, or in blocks of few bits."""
    write = write_block_lookup if isinstance(site.spec.granularity, PerBlock) else write_lookup
    write(writer, site)


_SITES: dict[Kind, Callable[[Writer, Site], None]] = {
    Kind.ACTIVATION: write_activation,
    Kind.WEIGHT: write_weight,
    Kind.BIAS: write_bias,
    Kind.STORED: write_stored,
    Kind.LOOKUP: _write_table,
    Kind.RUNTIME: _with_its_node,
    Kind.FUSED: _with_its_node,
}
_EDITS: dict[EditKind, Callable[[Writer, GraphEdit], None]] = {
    EditKind.RESHAPED_BIAS: reshape_bias,
    EditKind.RESULT_BARRIER: write_result_barrier,
    EditKind.SUM: write_sum,
}  # the other kinds are written with their site or their node
_NODES: dict[Operator, Callable[[Writer, ir.Node], None]] = {
    Operator.DYNAMIC_QUANTIZE_MATMUL: write_dynamic_quantize_matmul,
    Operator.MATMUL_INTEGER_TO_FLOAT: write_matmul_integer_to_float,
    Operator.MATMUL_INTEGER: write_matmul_integer,
    Operator.CONV_INTEGER: write_conv_integer,
    Operator.DYNAMIC_QUANTIZE_LSTM: write_dynamic_quantize_lstm,
    Operator.MATMUL_NBITS: write_nbits,
    Operator.QMOE: write_experts,
}


def rewrite(model: ir.Model, plan: Plan) -> ir.Model:
    """Return a clone of the prepared model with every site and node of the plan quantized.

    Raises:
        KeyError: the plan names a node or value that the model lacks, or is not resolved.
        ModelError: scales that follow an input need graphs that differ by more than constants.
    """
    if plan.steps is None:
        clone = _rewritten(model, plan)
    else:
        buckets = range(len(plan.steps.bounds) + 1)
        clone = choose_by_step([_rewritten(model, at_bucket(plan, index)) for index in buckets], plan.steps)
    share_constants(clone, Namer(clone))
    return clone


def _rewritten(model: ir.Model, plan: Plan) -> ir.Model:
    """Return a clone as the plan has it, with each constant in its own place."""
    clone = model.clone()
    correct_biases(clone, plan)
    split_outlier_columns(clone, plan)
    sites_of = {use: s for s in plan.sites for use in s.uses or ()}
    added = {e.node: e for e in plan.edits if e.kind is EditKind.ADDED_BIAS}
    quantizer_barriers = frozenset(e.value for e in plan.edits if e.kind is EditKind.QUANTIZER_BARRIER)
    writer = Writer(View(clone), Namer(clone), TARGETS[plan.target], sites_of, added, quantizer_barriers)
    for site in plan.sites:
        _SITES[site.kind](writer, site)
        beat()
    for edit in plan.edits:
        if edit.kind in _EDITS:
            _EDITS[edit.kind](writer, edit)
    for name, operator in plan.operators.items():
        _NODES[operator](writer, writer.view.node_by_name[name])
        beat()
    write_integer_io(writer, plan)
    if plan.fp16.nodes or plan.fp16.stored or plan.choices.io == "float16":
        norms = [e for e in plan.edits if e.kind is EditKind.NORM_BARRIER]
        write_fp16(clone, plan.fp16, norms)
    if plan.choices.integer_operators:
        lower_to_qoperator(clone, TARGETS[plan.target].onnxruntime)
    _drop_unused_initializers(clone)
    return clone


def _drop_unused_initializers(model: ir.Model) -> None:
    for graph in model.graphs():
        kept = {id(v) for v in (*graph.outputs, *graph.inputs)}
        for name, value in list(graph.initializers.items()):
            if not value.uses() and id(value) not in kept:
                del graph.initializers[name]


def correct_biases(model: ir.Model, plan: Plan) -> None:
    """Add a plan's corrections to the biases of a clone of the prepared model, before anything is quantized.

    Raises:
        KeyError: the model has no such bias.
    """
    for name, offsets in plan.corrections.items():
        value = model.graph.initializers[name]
        array = float_constant(value)
        if array is None or array.size != len(offsets):
            raise KeyError(f"'{name}' is no bias of {len(offsets)} floats")
        shifted = array + np.asarray(offsets, np.float32).reshape(array.shape)
        value.const_value = ir.tensor(shifted, name=name)


def written(model: ir.Model, plan: Plan) -> ir.Model:
    """Return the model that a plan makes of a prepared one, with its recipe in the metadata."""
    result = rewrite(model, plan)
    result.metadata_props.update(recipe(plan))
    return result


def recipe(plan: Plan) -> dict[str, str]:
    """Return the metadata that tell how the model was made: version, options and digests.

    All of it is in the plan, so that a replay writes the same: no times, no paths, no machine.
    """
    return {
        "qtool.version": __version__,
        "qtool.mode": plan.mode,
        "qtool.target": plan.target,
        "qtool.options": json.dumps(
            {"exclude": plan.exclude, "include": plan.include, "set": plan.sets, **plan.choices.made()}
        ),
        "qtool.source_sha256": plan.model_sha256,
        "qtool.calibration_sha256": plan.calibration_sha256,
        "qtool.plan_sha256": digest(plan),
        **hidden_metadata(plan),
        **_runtime(plan),
    }


def _runtime(plan: Plan) -> dict[str, str]:
    """Return the metadata that tell how to open the model, where that is not onnxruntime's default."""
    row, precision = runtime_of(plan.runtime or DEFAULT)
    if row.name == DEFAULT:
        return {}
    options = fixed_options(row, precision, threads=0)
    return {
        RUNTIME_KEY: f"{row.name}:{precision}",
        "qtool.provider": row.provider,
        "qtool.provider_options": json.dumps(options),
    }
