"""What regions cost in float and in int8, and what stands between them: timed on the model, or looked up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.data.samples import synthetic
from qtool.errors import UsageError
from qtool.graph.save import tensor_bytes
from qtool.graph.view import View, is_op
from qtool.placement.network import Network, RegionCosts, network
from qtool.placement.node_times import Times, fused, node_times
from qtool.placement.regions import Region, find_regions
from qtool.placement.shapes import Shapes, shapes_of
from qtool.plan.assignment import AssignedGraph, assigned_graph
from qtool.plan.candidate import Candidate, resolved
from qtool.plan.costs import Costs, load_costs
from qtool.plan.eligible import rule_of
from qtool.plan.fp16.ports import is_float32
from qtool.plan.model import Kind, Plan
from qtool.plan.predict import Errors
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import maximal
from qtool.rewrite.write import rewrite
from qtool.tables import kernels
from qtool.tables.efforts import EFFORTS
from qtool.tables.forms import Form
from qtool.tables.ops import Role
from qtool.tables.targets import TABLE

# Bytes of weights beyond which several candidates at once would not fit.
_LARGEST = 1 << 30
_FORMS = frozenset({Form.INT8, Form.DYNAMIC})


@dataclass(frozen=True)
class Table:
    """The cost table, and the sizes of the values that are looked up in it."""

    costs: Costs
    shapes: Shapes

    def size(self, value: str) -> int:
        """The elements of a value; 1 where that is not known."""
        return math.prod(self.shapes.get(value, ()))


@dataclass(frozen=True)
class Timing:
    """What could be faster here, and by how much.

    Args:
        all_int8: the candidate with every node in int8 that could pay.
        regions: of its nodes.
        times: region -> seconds in float, in int8.
        whole: seconds of an inference in float.
        table: the cost table.
    """

    all_int8: Candidate
    regions: tuple[Region, ...]
    times: Mapping[str, tuple[float, float]]
    whole: float
    table: Table

    def speed(self, network: Network, int8: frozenset[str]) -> float:
        """Return the time of FP32 / the time with these regions in int8, as predicted."""
        if self.whole <= 0:  # of a table that knows none of its nodes
            return 1.0
        rest = self.whole - network.seconds(frozenset())
        return self.whole / max(rest + network.seconds(int8), 1e-9)


def obstacle(model: PreparedModel) -> tuple[str, str] | None:
    """Return why placement can't be measured, and what to do about it; None where it can."""
    options, scheme, samples = model.options, model.scheme, model.samples.select
    if options.plan is not None:
        return "the plan settles placement", "leave it out"
    if samples is None or synthetic(samples):
        return "placement measures errors and times on samples", "add --calib SRC"
    if not EFFORTS[options.effort].measures:
        return f"--effort {options.effort} measures nothing: it goes by the rules", "leave it out"
    if not scheme.target.onnxruntime:
        why = f"--target {scheme.target.name} is for another runtime, and plans are timed in onnxruntime"
        return why, "--target cpu"
    if scheme.forces_form or scheme.form not in _FORMS:
        return (
            "--weights, --acts, --format, --io and --prefer settle what is quantized to what",
            "leave them out; qtool quantize --plan PLAN replays what was found",
        )
    if tensor_bytes(model.model) > _LARGEST:
        return "several candidates of a model of more than 1 GiB at once would not fit", ""
    if not any(is_float32(v) for v in model.model.graph.outputs):
        return "no output of the model is a tensor of floats: an error has no size here", ""
    return None


def check_tunable(model: PreparedModel) -> None:
    """Refuse to tune what can't be measured.

    Raises:
        UsageError: there are no samples to choose by, or placement can't be measured.
    """
    samples = model.samples.select
    if samples is None:
        raise UsageError("tune measures errors and times on samples", "add --calib SRC or --data SRC")
    if synthetic(samples):
        raise UsageError(
            f"{samples.name} is random data: errors on it say nothing, and there is nothing to tune by",
            "add --calib SRC of real samples",
        )
    weights_only = model.scheme.form is None
    if not weights_only and (problem := obstacle(model)) is not None:
        raise UsageError(*problem)


def measure_timing(model: PreparedModel) -> Timing | None:
    """Time every region in float and in int8; None where placement goes by the rules.

    Raises:
        DataError, RuntimeFailure: samples do not fit, or the model fails on one.
    """
    if obstacle(model) is not None:
        return None
    all_int8 = resolved(model, maximal(model.task))
    table = table_of(all_int8)
    assigned = assigned_graph(model.task, all_int8.assignment)
    if model.options.profile == TABLE:
        regions = find_regions(model.view, assigned)
        times = {r.name: _looked_up(r, assigned, table) for r in regions}
        return Timing(all_int8, regions, times, _whole(model.view, table), table)
    ran = _time([all_int8])
    regions = find_regions(model.view, assigned, fused(ran, model.view))
    times = {r.name: (_sum(r, ran[0]), _sum(r, ran[1])) for r in regions}
    return Timing(all_int8, regions, times, ran[0].whole, table)


def extra_seconds(timing: Timing, candidate: Candidate) -> dict[str, float]:
    """Return what regions take more in a candidate with outlier columns than in `timing.all_int8`.

    Args:
        timing: of the model.
        candidate: everything in int8, with outlier columns.
    """
    if candidate.model.options.profile == TABLE:
        nodes = candidate.model.view.node_by_name
        return {
            r.name: math.fsum(_beside(nodes[name], candidate.plan, timing.table) for name in r.nodes)
            for r in timing.regions
        }
    _, plain, columns = _time([timing.all_int8, candidate])
    return {r.name: _sum(r, columns) - _sum(r, plain) for r in timing.regions}


def predicted_speed(candidate: Candidate, table: Table | None = None) -> float:
    """Return the time of prepared FP32 / the time of a candidate, by the cost table."""
    model = candidate.model
    table = table or table_of(candidate, whole=True)
    assigned = assigned_graph(model.task, candidate.assignment)
    regions = find_regions(model.view, assigned)
    times = {r.name: _looked_up(r, assigned, table) for r in regions}
    costs = RegionCosts(times, *edges(model.view, candidate.plan, table), _NO_ERRORS)
    plan = candidate.plan
    found = network(model.view, assigned, plan, plan, regions, costs)
    timing = Timing(candidate, regions, times, _whole(model.view, table), table)
    return timing.speed(found, frozenset(r.name for r in regions))


def table_of(candidate: Candidate, *, whole: bool = False) -> Table:
    """Return the cost table for a model, with the sizes of its values on the first sample.

    Args:
        candidate: whose activations are looked up.
        whole: nodes are looked up as well, not Q and DQ alone.
    """
    model = candidate.model
    names = [s.value for s in candidate.plan.sites if s.kind is Kind.ACTIVATION]
    if whole or model.options.profile == TABLE:
        names = [name for name, value in model.view.values.items() if is_float32(value)]
    samples = model.samples.select
    shapes = {} if samples is None else shapes_of(model.model, names, samples, model.threads)
    return Table(load_costs(model.options.costs, model.scheme.target.name), shapes)


def edges(view: View, plan: Plan, table: Table) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of a Q and of a DQ of every value with a scale.

    Around convolutions a change of layout comes with each.
    """
    down, up = {}, {}
    for name in (s.value for s in plan.sites if s.kind is Kind.ACTIVATION):
        size, costs = table.size(name), table.costs
        spatial = len(table.shapes.get(name, ())) > 2 and _is_of_convolutions(view.values[name])
        layout = costs.border(size) + costs.reorder(size) if spatial else 0.0
        down[name] = costs.quantize(size) + layout
        up[name] = costs.dequantize(size) + layout
    return down, up


_NO_ERRORS = Errors((), np.zeros(0), {}, 0, 0)


def _time(candidates: Sequence[Candidate]) -> tuple[Times, ...]:
    """The times of the float model and of each candidate, run in turn."""
    model = candidates[0].model
    samples = model.samples.select
    if samples is None:
        raise ValueError("there is no select set")
    models = [model.model, *(rewrite(c.model.model, c.plan) for c in candidates)]
    return node_times(models, model.view, samples, model.threads or 1)


def _sum(region: Region, times: Times) -> float:
    return math.fsum(times.nodes.get(n, 0.0) for n in (*region.nodes, *region.others))


def _whole(view: View, table: Table) -> float:
    found = (table.costs.seconds(node, None, table.shapes) for node in view.nodes)
    return math.fsum(s for s in found if s is not None)


def _looked_up(region: Region, assigned: AssignedGraph, table: Table) -> tuple[float, float]:
    """Seconds in float, in int8. Nodes that the table does not know in both forms cost nothing in either."""
    total = [0.0, 0.0]
    for name in region.nodes:
        node, form = assigned.chosen[name].node, assigned.chosen[name].form
        pair = table.costs.seconds(node, None, table.shapes), table.costs.seconds(node, form, table.shapes)
        if pair[0] is not None and pair[1] is not None:
            total = [total[0] + pair[0], total[1] + pair[1]]
    return total[0], total[1]


def _beside(node: ir.Node, plan: Plan, table: Table) -> float:
    """The seconds of the sum beside a product with outlier columns, 0 where there is none."""
    if not any(v is not None and v.name in plan.outlier_columns for v in node.inputs):
        return 0.0
    return table.costs.time("Add", kernels.Kind.FLOAT, table.size(node.outputs[0].name or "")) or 0.0


def _is_of_convolutions(value: ir.Value) -> bool:
    """Whether a convolution makes or reads a value: in int8 and in float it wants layouts of its own."""
    around = [value.producer(), *(use.node for use in value.uses())]
    producers = [m for n in around if n is not None for m in (n, *_behind(n))]
    return any(is_op(n, "Conv") for n in producers)


def _behind(node: ir.Node) -> list[ir.Node]:
    """What makes a clamp's input: the clamp is part of it."""
    rule = rule_of(node)
    source = node.inputs[0] if rule is not None and rule.role is Role.EPILOGUE else None
    producer = source.producer() if source is not None else None
    return [] if producer is None else [producer]
