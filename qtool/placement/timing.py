"""The time of each region in float and in int8, and of Q and DQ between them: measured, or from the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from qtool.calibration.runner import Shapes, shapes_of
from qtool.data.samples import synthetic
from qtool.errors import UsageError
from qtool.graph.save import tensor_bytes
from qtool.graph.view import View, is_op
from qtool.options import Progress, silent
from qtool.placement.build_network import RegionCosts, build_network
from qtool.placement.network import Network
from qtool.placement.node_times import Times, fused, node_times
from qtool.placement.regions import Region, find_regions
from qtool.placement.whole_times import whole_times
from qtool.plan.assignment import AssignedGraph, assigned_graph
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.eligible import rule_of
from qtool.plan.fp16.ports import is_float32
from qtool.plan.kernel_costs import KernelCosts, load_kernel_costs
from qtool.plan.model import Kind, Plan
from qtool.plan.predict import TensorNoise
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import maximal
from qtool.rewrite.write import rewrite
from qtool.tables import kernels
from qtool.tables.efforts import EFFORTS
from qtool.tables.forms import Form
from qtool.tables.ops import Role
from qtool.tables.runtimes import Tells
from qtool.tables.targets import TABLE

# Bytes of weights beyond which several candidates at once would not fit.
_LARGEST = 1 << 30
_FORMS = frozenset({Form.INT8, Form.DYNAMIC})
# The cost table's speeds were 10 to 17% too high on PP-LCNet, PP-OCRv4 and basic-pitch (2026-12-01).
_TOO_HIGH = 1.1
_LEAST_SECONDS = 1e-9  # some share for every region


@dataclass(frozen=True)
class Table:
    """The cost table, with the shapes of a model's values to look up in it."""

    costs: KernelCosts
    shapes: Shapes

    def size(self, value: str) -> int:
        """The elements of a value; 1 where its shape is unknown."""
        return math.prod(self.shapes.get(value, ()))


@dataclass(frozen=True)
class Timing:
    """The times of a model's regions in float and in int8.

    Args:
        all_int8: the candidate with every node in int8 that could be faster.
        regions: of its nodes.
        times: region -> seconds in float, in int8.
        inference: seconds of an inference in float.
        table: the cost table.
    """

    all_int8: Candidate
    regions: tuple[Region, ...]
    times: Mapping[str, tuple[float, float]]
    inference: float
    table: Table

    @cached_property
    def network(self) -> Network:
        """The costs of every assignment in time alone: no assignment has an error."""
        model, plan = self.all_int8.model, self.all_int8.plan
        assigned = assigned_graph(model.task, self.all_int8.assignment)
        costs = RegionCosts(self.times, *edges(model.view, plan, self.table), NO_ERRORS)
        return build_network(model.view, assigned, plan, plan, self.regions, costs)

    def predicted_speed(self, candidate: Candidate) -> float:
        """Return the time of optimized FP32 / the time of a candidate, where no race can tell.

        The lower of two predictions, by the cost table and by the times of this model's regions, less their
        error: int8 costs accuracy, so it must gain more than that.
        """
        measured = self.speed(self.network, self.network.int8_regions(candidate.plan))
        return min(measured, predicted_speed(candidate)) / (_TOO_HIGH if candidate.plan.forms else 1)

    def within(self, candidate: Candidate) -> Timing:
        """Return the timing of the regions that a candidate has in int8; all others stay in float."""
        forms = candidate.plan.forms
        return replace(self, regions=tuple(r for r in self.regions if any(n in forms for n in r.nodes)))

    def speed(self, network: Network, int8: frozenset[str]) -> float:
        """Return the predicted time of FP32 / the time with these regions in int8."""
        if self.inference <= 0:  # the table has none of the model's ops
            return 1.0
        rest = self.inference - network.seconds(frozenset())
        return self.inference / max(rest + network.seconds(int8), 1e-9)


def obstacle(model: PreparedModel) -> tuple[str, str] | None:
    """Return the reason that placement can't be measured, and a hint; None where it can."""
    options, scheme, samples = model.options, model.scheme, model.samples.select
    if options.plan is not None:
        return "--plan decides placement", "leave it out"
    if samples is None or synthetic(samples):
        return "placement measures errors and times on samples, and there are none", "add --calib SRC"
    if not EFFORTS[options.effort].measures:
        return f"--effort {options.effort} measures nothing: the rules decide", "leave it out"
    if not scheme.runtime:
        why = f"--target {scheme.target.name} is for another runtime, and plans are timed in onnxruntime"
        return why, "--target cpu, or --runtime NAME"
    if scheme.timed is Tells.OUTPUTS:
        return f"plans are timed, and runtime {scheme.runtime} tells {Tells.OUTPUTS.value}", "--target cpu"
    if scheme.forces_form or scheme.form not in _FORMS:
        return (
            "placement measures default types only: --weights, --acts, --format, --io or --prefer set others",
            "leave them out; qtool quantize --plan PLAN replays a plan",
        )
    if tensor_bytes(model.model) > _LARGEST:
        return "the model is larger than 1 GiB: several candidates at once would not fit in memory", ""
    if not any(is_float32(v) for v in model.model.graph.outputs):
        return "no output of the model is a float tensor: errors can't be measured", ""
    return None


def check_tunable(model: PreparedModel) -> None:
    """Refuse to tune a model that can't be measured.

    Raises:
        UsageError: there are no samples to choose by, or placement can't be measured.
    """
    samples = model.samples.select
    if samples is None:
        raise UsageError(
            "tune measures errors and times on samples, and there are none", "add --calib SRC or --data SRC"
        )
    if synthetic(samples):
        raise UsageError(
            f"{samples.name} is random data: errors on it mean nothing, so tune can't choose",
            "add --calib SRC of real samples",
        )
    weights_only = model.scheme.form is None
    if not weights_only and (problem := obstacle(model)) is not None:
        raise UsageError(*problem)


def measure_timing(model: PreparedModel, progress: Progress = silent) -> Timing | None:
    """Time every region in float and in int8; None where placement goes by the rules.

    Args:
        model: with a select set.
        progress: called when timing begins.

    Raises:
        DataError, RuntimeFailure: samples do not fit, or the model fails on one.
    """
    if obstacle(model) is not None:
        return None
    all_int8 = make_candidate(model, maximal(model.task))
    progress("timing", 0, 0)
    if not all_int8.plan.forms:
        return Timing(all_int8, (), {}, 0.0, Table(_costs_of(model), {}))
    table = table_of(model)
    assigned = assigned_graph(model.task, all_int8.assignment)
    if model.options.timing == TABLE:
        regions = find_regions(model.view, assigned)
        times = {r.name: _looked_up(r, assigned, table) for r in regions}
        return Timing(all_int8, regions, times, _inference(model.view, table), table)
    if model.scheme.timed is Tells.INFERENCES:
        regions = find_regions(model.view, assigned)
        work = {r.name: _work(r, model.view, table) for r in regions}
        times, inference = whole_times(all_int8, regions, work, _inference(model.view, table))
        return Timing(all_int8, regions, times, inference, table)
    ran = _time(model, [model.model, rewrite(all_int8.model.model, all_int8.plan)])
    regions = find_regions(model.view, assigned, fused(ran, model.view))
    times = {r.name: (_sum(r, ran[0]), _sum(r, ran[1])) for r in regions}
    return Timing(all_int8, regions, times, ran[0].inference, table)


def extra_seconds(timing: Timing, base: Candidate, candidate: Candidate) -> dict[str, float]:
    """Return region -> the extra seconds of outlier columns.

    Args:
        timing: of the regions.
        base: a candidate without outlier columns.
        candidate: the same one with them.
    """
    model = candidate.model
    if model.options.timing == TABLE or model.scheme.timed is not Tells.NODES:
        nodes = model.view.node_by_name
        return {
            r.name: math.fsum(_add_seconds(nodes[name], candidate.plan, timing.table) for name in r.nodes)
            for r in timing.regions
        }
    plain, columns = _time(model, [rewrite(c.model.model, c.plan) for c in (base, candidate)])
    return {r.name: _sum(r, columns) - _sum(r, plain) for r in timing.regions}


def predicted_speed(candidate: Candidate) -> float:
    """Return the time of optimized FP32 / the time of a candidate, by the cost table."""
    model = candidate.model
    table = table_of(model)
    assigned = assigned_graph(model.task, candidate.assignment)
    regions = find_regions(model.view, assigned)
    times = {r.name: _looked_up(r, assigned, table) for r in regions}
    costs = RegionCosts(times, *edges(model.view, candidate.plan, table), NO_ERRORS)
    plan = candidate.plan
    network = build_network(model.view, assigned, plan, plan, regions, costs)
    timing = Timing(candidate, regions, times, _inference(model.view, table), table)
    return timing.speed(network, frozenset(r.name for r in regions))


def table_of(model: PreparedModel) -> Table:
    """Return the cost table for a model, with the shapes of its values on the first sample."""
    shapes: Shapes = {}
    if model.samples.select is not None:
        names = [name for name, value in model.view.values.items() if is_float32(value)]
        shapes = model.view.once(
            "shapes of floats", lambda: shapes_of(model.model, names, model.timing_samples, model.threads)
        )
    return Table(_costs_of(model), shapes)


def _costs_of(model: PreparedModel) -> KernelCosts:
    return load_kernel_costs(model.options.costs, model.scheme.target.name)


def edges(view: View, plan: Plan, table: Table) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of a Q and of a DQ of every value with a scale.

    Around convolutions each includes a change of layout.
    """
    down, up = {}, {}
    for name in (s.value for s in plan.sites if s.kind is Kind.ACTIVATION):
        size, costs = table.size(name), table.costs
        spatial = len(table.shapes.get(name, ())) > 2 and _is_of_convolutions(view.values[name])
        layout = costs.border(size) + costs.reorder(size) if spatial else 0.0
        down[name] = costs.quantize(size) + layout
        up[name] = costs.dequantize(size) + layout
    return down, up


NO_ERRORS = TensorNoise((), np.zeros(0), {}, 0, 0)


def _time(model: PreparedModel, versions: Sequence[ir.Model]) -> tuple[Times, ...]:
    """The times of versions of a model, run in turns."""
    with model.budget.timed():
        return node_times(versions, model.view, model.timing_samples, model.threads or 1)


def _sum(region: Region, times: Times) -> float:
    return math.fsum(times.nodes.get(n, 0.0) for n in (*region.nodes, *region.others))


def _inference(view: View, table: Table) -> float:
    """Seconds of an inference in float by the table, without the ops that it lacks."""
    seconds = (table.costs.seconds(node, None, table.shapes) for node in view.nodes)
    return math.fsum(s for s in seconds if s is not None)


def _work(region: Region, view: View, table: Table) -> float:
    """Seconds of a region in float by the table; nodes that it lacks count as a dispatch."""
    nodes = (view.node_by_name[name] for name in region.nodes)
    seconds = (table.costs.seconds(node, None, table.shapes) for node in nodes)
    return max(math.fsum(table.costs.table.dispatch if s is None else s for s in seconds), _LEAST_SECONDS)


def _looked_up(region: Region, assigned: AssignedGraph, table: Table) -> tuple[float, float]:
    """Seconds in float, in int8. Nodes without a row in both forms count as 0 in both."""
    total = [0.0, 0.0]
    for name in region.nodes:
        node, form = assigned.chosen[name].node, assigned.chosen[name].form
        pair = table.costs.seconds(node, None, table.shapes), table.costs.seconds(node, form, table.shapes)
        if pair[0] is not None and pair[1] is not None:
            total = [total[0] + pair[0], total[1] + pair[1]]
    return total[0], total[1]


def _add_seconds(node: ir.Node, plan: Plan, table: Table) -> float:
    """Seconds of the Add that outlier columns bring, 0 without them."""
    if not any(v is not None and v.name in plan.outlier_columns for v in node.inputs):
        return 0.0
    return table.costs.time("Add", kernels.Kind.FLOAT, table.size(node.outputs[0].name or "")) or 0.0


def _is_of_convolutions(value: ir.Value) -> bool:
    """Whether a convolution produces or reads a value: convolutions have layouts of their own."""
    around = [value.producer(), *(use.node for use in value.uses())]
    nodes = [m for n in around if n is not None for m in (n, *_clamped(n))]
    return any(is_op(n, "Conv") for n in nodes)


def _clamped(node: ir.Node) -> list[ir.Node]:
    """The node that a clamp folds into; none for other nodes."""
    rule = rule_of(node)
    source = node.inputs[0] if rule is not None and rule.role is Role.EPILOGUE else None
    producer = source.producer() if source is not None else None
    return [] if producer is None else [producer]
