"""What units take in float and in int8, and what stands between them: timed on the model, or looked up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from qtool.data.samples import Source as Samples
from qtool.graph.view import View, is_op
from qtool.job import Job
from qtool.measure.shapes import Shapes, shapes_of
from qtool.measure.times import Times, fused, node_times
from qtool.plan.costs import Costs, load_costs
from qtool.plan.eligible import rule_of
from qtool.plan.half_ports import is_float32
from qtool.plan.model import Kind, Plan
from qtool.plan.place import Placed
from qtool.plan.units import Unit, units_of
from qtool.rewrite.write import rewrite
from qtool.tables import kernels
from qtool.tables.ops import Role
from qtool.tables.targets import TABLE


@dataclass(frozen=True)
class Ran:
    """The units, seconds of each in float, in int8, and with columns spared; of the whole in float."""

    units: tuple[Unit, ...]
    seconds: dict[str, tuple[float, float, float]]
    whole: float

    def reading(self, value: str, view: View) -> list[str]:
        """The units that read a value."""
        readers = {use.node.name for use in view.values[value].uses()}
        return [u.name for u in self.units if readers & {*u.nodes}]


@dataclass(frozen=True)
class Table:
    """The cost table, and how large the values are that are looked up in it."""

    costs: Costs
    shapes: Shapes

    def size(self, value: str) -> int:
        """Elements of a value; 1 where that is not known."""
        return math.prod(self.shapes.get(value, ()))


def table_of(job: Job, everything: Plan, samples: Samples) -> Table:
    """The table for a job, by the first sample.

    Args:
        job: the model, and what was asked.
        everything: the plan of all that could be in int8.
        samples: held-out ones.
    """
    names = [s.value for s in everything.sites if s.kind is Kind.ACTIVATION]
    if job.options.profile == TABLE:  # nodes are looked up as well
        names = [name for name, value in job.view.values.items() if is_float32(value)]
    shapes = shapes_of(job.prepared.model, names, samples, job.options.threads)
    return Table(load_costs(job.options.costs, job.scheme.target.name), shapes)


def timed(job: Job, chosen: Placed, plain: Plan, sparing: Plan, samples: Samples, table: Table) -> Ran:
    """Time units as float, and as each of two plans has them.

    Args:
        job: the model, and what was asked.
        chosen: all that could be in int8.
        plain, sparing: plans of all of it, without columns spared and with; one and the same where none are.
        samples: held-out ones, of which a few are run, unless times are looked up.
        table: where they are.
    """
    view, model = job.view, job.prepared.model
    if job.options.profile == TABLE:
        return _looked_up(view, chosen, sparing, table)
    models = [model, rewrite(model, plain), *([] if plain is sparing else [rewrite(model, sparing)])]
    ran = node_times(models, view, samples, job.options.threads or 1)
    units = units_of(view, chosen, fused(ran, view))
    before, int8, spared = ran[0], ran[1], ran[-1]
    times = {u.name: (_sum(u, before), _sum(u, int8), _sum(u, spared)) for u in units}
    return Ran(units, times, before.whole)


def _sum(unit: Unit, times: Times) -> float:
    return math.fsum(times.nodes.get(n, 0.0) for n in (*unit.nodes, *unit.others))


def _looked_up(view: View, chosen: Placed, sparing: Plan, table: Table) -> Ran:
    units = units_of(view, chosen)
    times = {}
    for unit in units:
        before, after = _both(unit, chosen, table)
        more = math.fsum(_beside(view.node_by_name[name], sparing, table) for name in unit.nodes)
        times[unit.name] = before, after, after + more
    found = (table.costs.seconds(node, None, table.shapes) for node in view.nodes)
    return Ran(units, times, math.fsum(s for s in found if s is not None))


def _both(unit: Unit, chosen: Placed, table: Table) -> tuple[float, float]:
    """Of nodes that the table does not know in both forms, nothing is known: neither costs anything."""
    total = [0.0, 0.0]
    for name in unit.nodes:
        node, form = chosen.chosen[name].node, chosen.chosen[name].form
        pair = table.costs.seconds(node, None, table.shapes), table.costs.seconds(node, form, table.shapes)
        if pair[0] is not None and pair[1] is not None:
            total = [total[0] + pair[0], total[1] + pair[1]]
    return total[0], total[1]


def _beside(node: ir.Node, sparing: Plan, table: Table) -> float:
    """What the sum with a spared product takes, 0 where there is none."""
    if not any(v is not None and v.name in sparing.outlier_columns for v in node.inputs):
        return 0.0
    return table.costs.time("Add", kernels.Kind.FLOAT, table.size(node.outputs[0].name or "")) or 0.0


def edges(view: View, everything: Plan, table: Table) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of a Q and of a DQ of every value with a scale; around convolutions, of a layout as well."""
    down, up = {}, {}
    for name in (s.value for s in everything.sites if s.kind is Kind.ACTIVATION):
        size, costs = table.size(name), table.costs
        spatial = len(table.shapes.get(name, ())) > 2 and _is_of_convolutions(view.values[name])
        layout = costs.border(size) + costs.reorder(size) if spatial else 0.0
        down[name] = costs.quantize(size) + layout
        up[name] = costs.dequantize(size) + layout
    return down, up


def _is_of_convolutions(value: ir.Value) -> bool:
    """Whether a convolution makes or reads a value: in int8 and in float it wants layouts of its own."""
    around = [value.producer(), *(use.node for use in value.uses())]
    makers = [m for n in around if n is not None for m in (n, *_behind(n))]
    return any(is_op(n, "Conv") for n in makers)


def _behind(node: ir.Node) -> list[ir.Node]:
    """What makes a clamp's input: the clamp is part of it."""
    rule = rule_of(node)
    source = node.inputs[0] if rule is not None and rule.role is Role.EPILOGUE else None
    maker = source.producer() if source is not None else None
    return [] if maker is None else [maker]
