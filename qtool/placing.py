"""Which nodes run in int8, by what each costs here and how wrong each makes the outputs: measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from qtool.data.samples import Source as Samples
from qtool.job import Job
from qtool.measure.sensitivity import sensitivity
from qtool.options import Progress
from qtool.placement.explain import decibels, int8_regions, why_float
from qtool.placement.network import Network, RegionCosts, network
from qtool.placement.pareto import ParetoPoint, between, envelope
from qtool.plan.model import Plan, Wishes
from qtool.plan.place import widest
from qtool.plan.predict import Errors
from qtool.planning import Planned, Planner
from qtool.pricing import Ran, edges, table_of, timed
from qtool.sparing import spare


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

    def speed(self, point: ParetoPoint) -> float:
        """Time of FP32 / time at a point, as predicted."""
        return self._faster(point.seconds)

    def speed_of(self, plan: Plan) -> float:
        """The same of any plan."""
        return self._faster(self.network.seconds(self.units_of(plan)))

    def units_of(self, plan: Plan) -> frozenset[str]:
        """The units that a plan has in int8."""
        return int8_regions(self.network, plan)

    def _faster(self, seconds: float) -> float:
        if self.seconds <= 0:  # of a table that knows none of its nodes
            return 1.0
        rest = self.seconds - self.network.seconds(())
        return self.seconds / max(rest + seconds, 1e-9)


def everything(job: Job, planner: Planner) -> Planned:
    """The plan of every node that could be in int8."""
    first = widest(job.view, job.scheme, job.wish)
    return planner.plan(replace(job.wish, force=job.wish.force | first.chosen.keys()))


def measured(job: Job, planner: Planner, samples: Samples, floor_db: float, progress: Progress) -> Measured:
    """Time a model's units and find their sensitivities.

    Args:
        job: the model.
        planner: makes its plans.
        samples: held-out ones, of which a few are run.
        floor_db: the least SQNR that is allowed.
        progress: told how far it is.
    """
    whole = everything(job, planner)
    wish = replace(whole.wish, force=job.wish.force)
    chosen = replace(widest(job.view, job.scheme, whole.wish), wishes=wish)
    rules = planner.plan(job.wish).plan
    apart = dict.fromkeys(chosen.chosen, "for comparison") | wish.keep_float
    floats = planner.plan(replace(wish, keep_float=apart)).plan
    errors = sensitivity(
        job.prepared.model,
        [whole.plan, floats, rules],
        samples,
        job.options.threads,
        lambda done, total: progress("sensitivity", done, total),
    )
    spared, quieter = spare(job, planner, samples, whole, errors, floor_db)
    sparing = planner.plan(replace(whole.wish, spared=spared)) if spared else whole
    table = table_of(job, whole.plan, samples)
    ran = timed(job, chosen, whole.plan, sparing.plan, samples, table)
    readers = {v: ran.reading(v, job.view) for v in spared}
    kept = {
        value: columns
        for value, columns in spared.items()
        if job.wish.force & {use.node.name for use in job.view.values[value].uses()}
        or _pays(ran, readers[value], errors.relative(value), quieter.relative(value))
    }
    if kept:
        wish = replace(wish, spared=kept)
        whole = planner.plan(replace(whole.wish, spared=kept))
        errors = replace(errors, noise={**errors.noise, **{v: quieter.noise[v] for v in kept}})
    slower = {unit for value in kept for unit in readers[value]}
    times = {unit: (t[0], t[2] if unit in slower else t[1]) for unit, t in ran.seconds.items()}
    costs = RegionCosts(times, *edges(job.view, whole.plan, table), errors)
    net = network(job.view, chosen, whole.plan, floats, ran.units, costs)
    return Measured(wish, whole, net, errors, ran.whole)


def _pays(ran: Ran, readers: list[str], before: float, after: float) -> bool:
    """Whether sparing columns takes less time than the same accuracy would cost with the readers in float."""
    floats, plain, spared = (math.fsum(ran.seconds[name][i] for name in readers) for i in range(3))
    return spared - plain < (floats - plain) * (before - after) / before


def front(known: Measured, floor_db: float) -> list[ParetoPoint]:
    """The front as far as it can be predicted, fastest first: the envelope, and between two of its points the
    fastest that reaches the floor.
    """
    points = envelope(known.network)
    for fast, true in pairwise(points):
        if decibels(fast.noise) < floor_db <= decibels(true.noise):
            inner = between(known.network, fast, true).fastest_within(10 ** (-floor_db / 10))
            points += [inner] if inner is not None else []
    return sorted(points, key=lambda p: p.seconds)


def labelled(known: Measured, point: ParetoPoint) -> Wishes:
    """The wish for exactly the units of a point, with the reasons of the others."""
    net = known.network
    chosen = frozenset(n for u in net.regions if u.name in point.int8 for n in u.nodes)
    keep = dict(known.wish.keep_float)
    for unit in net.regions:
        if unit.name not in point.int8:
            keep |= dict.fromkeys(unit.nodes, why_float(unit, net, point.weight))
    return replace(known.wish, force=known.wish.force | chosen, keep_float=keep)
