"""Which nodes run in int8, by what each costs here and how wrong each makes the outputs: measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import onnx_ir as ir

from qtool.data.samples import Source as Samples
from qtool.graph.view import View, is_op
from qtool.job import Job
from qtool.measure.sensitivity import is_float, sensitivity
from qtool.measure.shapes import Shapes, shapes_of
from qtool.measure.times import Times, fused, node_times
from qtool.options import Progress
from qtool.plan.costs import Costs, load_costs
from qtool.plan.eligible import rule_of
from qtool.plan.explain import decibels, quantized_units, why_float
from qtool.plan.front import Point, between, envelope
from qtool.plan.model import Kind, Plan, Wishes
from qtool.plan.network import Ends, Network, Prices, network
from qtool.plan.place import Placed, widest
from qtool.plan.predict import Errors
from qtool.plan.units import Unit, units_of
from qtool.planning import Planned, Planner
from qtool.rewrite.write import rewrite
from qtool.sparing import spare
from qtool.tables import kernels
from qtool.tables.ops import Role
from qtool.tables.targets import TABLE


@dataclass(frozen=True)
class Measured:
    """All that is known of one model: what placement decides by.

    Args:
        wish: what was asked for, with what calibration showed to be unfit.
        everything: the plan of every node that could be in int8.
        network: what labels of these nodes cost.
        errors: of all that they quantize.
        seconds: of an inference in float.
    """

    wish: Wishes
    everything: Planned
    network: Network
    errors: Errors
    seconds: float

    def speed(self, point: Point) -> float:
        """Time of FP32 / time at a point, as predicted."""
        return self._faster(point.seconds)

    def speed_of(self, plan: Plan) -> float:
        """The same of any plan."""
        return self._faster(self.network.seconds(self.units_of(plan)))

    def units_of(self, plan: Plan) -> frozenset[str]:
        """The units that a plan has in int8."""
        return quantized_units(self.network, plan)

    def _faster(self, seconds: float) -> float:
        if self.seconds <= 0:  # of a table that knows none of its nodes
            return 1.0
        rest = self.seconds - self.network.seconds(())
        return self.seconds / max(rest + seconds, 1e-9)


def measured(job: Job, planner: Planner, samples: Samples, floor_db: float, progress: Progress) -> Measured:
    """Time a model's units and find their sensitivities.

    Args:
        job: the model.
        planner: makes its plans.
        samples: held-out ones, of which a few are run.
        floor_db: the least SQNR that is allowed.
        progress: told how far it is.
    """
    first = widest(job.view, job.scheme, job.wish)
    everything = planner.plan(replace(job.wish, force=job.wish.force | first.chosen.keys()))
    wish = replace(everything.wish, force=job.wish.force)
    chosen = replace(widest(job.view, job.scheme, everything.wish), wishes=wish)
    rules = planner.plan(job.wish).plan
    apart = dict.fromkeys(chosen.chosen, "for comparison") | wish.keep_float
    floats = planner.plan(replace(wish, keep_float=apart)).plan
    errors = sensitivity(
        job.prepared.model,
        [everything.plan, floats, rules],
        samples,
        job.options.threads,
        lambda done, total: progress("sensitivity", done, total),
    )
    spared, quieter = spare(job, planner, samples, everything, errors, floor_db)
    sparing = planner.plan(replace(everything.wish, spared=spared)) if spared else everything
    ran = _timed(job, chosen, [everything, sparing], samples)
    readers = {v: ran.reading(v, job.view) for v in spared}
    kept = {
        value: columns
        for value, columns in spared.items()
        if job.wish.force & {use.node.name for use in job.view.values[value].uses()}
        or _pays(ran, readers[value], errors.relative(value), quieter.relative(value))
    }
    if kept:
        wish = replace(wish, spared=kept)
        everything = planner.plan(replace(everything.wish, spared=kept))
        errors = replace(errors, noise={**errors.noise, **{v: quieter.noise[v] for v in kept}})
    slower = {unit for value in kept for unit in readers[value]}
    times = {unit: (t[0], t[2] if unit in slower else t[1]) for unit, t in ran.seconds.items()}
    prices = Prices(times, *_edges(job, everything, samples), errors)
    net = network(job.view, chosen, Ends(everything.plan, floats), ran.units, prices)
    return Measured(wish, everything, net, errors, ran.whole)


@dataclass(frozen=True)
class _Ran:
    """The units, seconds of each in float, in int8, and with columns spared; of the whole in float."""

    units: tuple[Unit, ...]
    seconds: dict[str, tuple[float, float, float]]
    whole: float

    def reading(self, value: str, view: View) -> list[str]:
        """The units that read a value."""
        readers = {use.node.name for use in view.values[value].uses()}
        return [u.name for u in self.units if readers & {*u.nodes}]


def _pays(ran: _Ran, readers: list[str], before: float, after: float) -> bool:
    """Whether sparing columns takes less time than the same accuracy would cost with the readers in float."""
    floats, plain, spared = (math.fsum(ran.seconds[name][i] for name in readers) for i in range(3))
    return spared - plain < (floats - plain) * (before - after) / before


def _timed(job: Job, chosen: Placed, plans: Sequence[Planned], samples: Samples) -> _Ran:
    """Time units as float, and as each of two plans has them."""
    view, model = job.view, job.prepared.model
    if job.options.profile == TABLE:
        units = units_of(view, chosen)
        costs = load_costs(job.options.costs, job.scheme.target.name)
        floats = [name for name, value in view.values.items() if is_float(value)]
        shapes = shapes_of(model, floats, samples, job.options.threads)
        sums = {name: _sums(plans[1].plan, name, costs, shapes, view) for name in view.node_by_name}
        pairs = {u.name: _looked_up(u, chosen, view, costs, shapes) for u in units}
        extra = {u.name: math.fsum(sums[n] for n in u.nodes) for u in units}
        times = {name: (f, i, i + extra[name]) for name, (f, i) in pairs.items()}
        found = (costs.seconds(n, None, shapes) for n in view.nodes)
        return _Ran(units, times, math.fsum(s for s in found if s is not None))
    models = [model, *(rewrite(model, planned.plan) for planned in plans[: 1 if plans[0] is plans[1] else 2])]
    ran = node_times(models, view, samples, job.options.threads or 1)
    units = units_of(view, chosen, fused(ran, view))
    before, plain, spared = ran[0], ran[1], ran[-1]
    return _Ran(
        units, {u.name: (_sum(u, before), _sum(u, plain), _sum(u, spared)) for u in units}, before.whole
    )


def _sum(unit: Unit, times: Times) -> float:
    return math.fsum(times.nodes.get(n, 0.0) for n in (*unit.nodes, *unit.others))


def _sums(plan: Plan, name: str, costs: Costs, shapes: Shapes, view: View) -> float:
    """What the sum with a spared product takes, 0 where there is none."""
    node = view.node_by_name[name]
    if not any(v is not None and v.name in plan.spared for v in node.inputs):
        return 0.0
    size = math.prod(shapes.get(node.outputs[0].name or "", ()))
    return costs.time("Add", kernels.Kind.FLOAT, size) or 0.0


def _looked_up(unit: Unit, chosen: Placed, view: View, costs: Costs, shapes: Shapes) -> tuple[float, float]:
    """Of nodes that the table does not know in both forms, nothing is known: neither costs anything."""
    total = [0.0, 0.0]
    for name in unit.nodes:
        node, form = view.node_by_name[name], chosen.chosen[name].form
        pair = costs.seconds(node, None, shapes), costs.seconds(node, form, shapes)
        if pair[0] is not None and pair[1] is not None:
            total = [total[0] + pair[0], total[1] + pair[1]]
    return total[0], total[1]


def _edges(job: Job, everything: Planned, samples: Samples) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of a Q and of a DQ of every value with a scale; around convolutions, of a layout as well."""
    view, costs = job.view, load_costs(job.options.costs, job.scheme.target.name)
    values = [s.value for s in everything.plan.sites if s.kind is Kind.ACTIVATION]
    shapes = shapes_of(job.prepared.model, values, samples, job.options.threads)
    down, up = {}, {}
    for name in values:
        shape = shapes.get(name, ())
        size = math.prod(shape)
        layout = costs.border(size) + costs.reorder(size) if _is_spatial(view.values[name], shape) else 0.0
        down[name] = costs.quantize(size) + layout
        up[name] = costs.dequantize(size) + layout
    return down, up


def _is_spatial(value: ir.Value, shape: tuple[int, ...]) -> bool:
    """Whether a convolution makes or reads a value: in int8 and in float it wants layouts of its own."""
    around = [value.producer(), *(use.node for use in value.uses())]
    if len(shape) < 3:
        return False
    makers = [m for n in around if n is not None for m in (n, *_behind(n))]
    return any(is_op(n, "Conv") for n in makers)


def _behind(node: ir.Node) -> list[ir.Node]:
    """What makes a clamp's input: the clamp is part of it."""
    rule = rule_of(node)
    source = node.inputs[0] if rule is not None and rule.role is Role.EPILOGUE else None
    maker = source.producer() if source is not None else None
    return [] if maker is None else [maker]


def front(known: Measured, floor_db: float) -> list[Point]:
    """The front as far as it can be predicted, fastest first: the envelope, and between two of its points the
    fastest that reaches the floor.
    """
    points = envelope(known.network)
    for fast, true in pairwise(points):
        if decibels(fast.noise) < floor_db <= decibels(true.noise):
            inner = between(known.network, fast, true)
            points += [p for p in inner if decibels(p.noise) >= floor_db][:1]
    return sorted(points, key=lambda p: p.seconds)


def labelled(known: Measured, point: Point) -> Wishes:
    """The wish for exactly the units of a point, with the reasons of the others."""
    net = known.network
    chosen = frozenset(n for u in net.units if u.name in point.int8 for n in u.nodes)
    keep = dict(known.wish.keep_float)
    for unit in net.units:
        if unit.name not in point.int8:
            keep |= dict.fromkeys(unit.nodes, why_float(unit, net, point.weight))
    return replace(known.wish, force=known.wish.force | chosen, keep_float=keep)
