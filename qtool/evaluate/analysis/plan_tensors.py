"""The values of a plan's tensors before and after quantization, from the statistics of calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from qtool.calibration.histogram import Histogram as Counts
from qtool.calibration.ranges import Range
from qtool.evaluate.analysis.measure import grid_of_site, homes
from qtool.evaluate.analysis.model import Histogram, TensorValues
from qtool.evaluate.analysis.subject import Subject
from qtool.evaluate.analysis.values import BINS, Grid, Statistics, weight_statistics
from qtool.graph.view import float_constant
from qtool.plan.candidate import Candidate
from qtool.plan.model import WEIGHTS, Kind, Plan, Site

_REGIONS = 8
_TENSORS = 24
# Larger weights are left out: 0.1 s each.
_MOST_WEIGHTS = 1 << 20


def plan_tensors(candidate: Candidate) -> tuple[TensorValues, ...]:
    """Return tensors of the int8 regions that cost most, those with the largest error of their own first.

    Nothing is run. Where no region was measured, all tensors count.
    """
    plan = candidate.plan
    subject = Subject(candidate.model.model, plan, tuple(_regions(plan)))
    rows: list[TensorValues] = []
    for key, place in homes(subject).items():
        site, region = subject.tensors[key][0], subject.regions[place][0]
        if site.kind in WEIGHTS:
            rows += _weight(subject, site, region)
        else:
            rows += _activation(site, region, candidate.ranges.get(site.value))
    return tuple(sorted(rows, key=lambda t: t.own_sqnr)[:_TENSORS])


def _regions(plan: Plan) -> Sequence[tuple[str, ...]]:
    measured = [r for r in plan.regions if r.quantized and not math.isnan(r.sqnr)]
    if measured:
        return [r.nodes for r in sorted(measured, key=lambda r: r.sqnr)[:_REGIONS]]
    stored = (name for s in plan.sites if s.kind in WEIGHTS for name, _ in s.uses or ())
    return [(name,) for name in dict.fromkeys((*plan.forms, *stored))]


def _weight(subject: Subject, site: Site, region: str) -> Iterator[TensorValues]:
    array = float_constant(subject.view.values[site.value])
    if array is None or not 0 < array.size <= _MOST_WEIGHTS:
        return
    restored = subject.restored(site, array)
    own = weight_statistics(array, restored, None)
    ends = float(restored.array.min()), float(restored.array.max())
    yield from _row(site, region, own, ends, own.histogram())


def _activation(site: Site, region: str, observed: Range | None) -> Iterator[TensorValues]:
    counts = None if observed is None else observed.histogram
    if site.kind is not Kind.ACTIVATION or site.qparams is None or np.size(site.qparams.scale) != 1:
        return
    grid = grid_of_site(site)
    if counts is None or not counts.total or grid is None:
        return
    own = _statistics(counts, grid)
    yield from _row(site, region, own, (grid.low, grid.high), _histogram(counts, grid))


def _statistics(counts: Counts, grid: Grid) -> Statistics:
    """Return the sums of values that are at the centers of their bins."""
    x, n = counts.centers(), counts.counts
    error = np.square(grid.rounded(x) - x)
    half, edges = grid.scale / 2, counts.edges()
    beyond = (x < grid.low - half) | (x > grid.high + half)
    return Statistics(
        None,
        count=counts.total,
        clipped=int(n[beyond].sum()),
        power=float((n * np.square(x)).sum()),
        error=float((n * error).sum()),
        steps=float((n * error).sum()) / grid.scale**2,
        low=float(edges[0]),
        high=float(edges[-1]),
    )


def _histogram(counts: Counts, grid: Grid) -> Histogram:
    x, n = counts.centers(), counts.counts
    low, high = float(counts.edges()[0]), float(counts.edges()[-1])
    before, after = (
        np.histogram(np.clip(values, low, high), BINS, (low, high), weights=n)[0].astype(np.int64)
        for values in (x, grid.rounded(x))
    )
    return Histogram(low, high, before, after)


def _row(
    site: Site, region: str, own: Statistics, ends: tuple[float, float], drawn: Histogram | None
) -> Iterator[TensorValues]:
    if drawn is None:
        return
    yield TensorValues(
        site.value,
        "weight" if site.kind in WEIGHTS else "activation",
        site.spec.qtype.name,
        region,
        own.own_sqnr,
        own.rmse_steps,
        own.clipped / own.count,
        drawn.low,
        drawn.high,
        *ends,
        tuple(drawn.before.tolist()),
        tuple(drawn.after.tolist()),
    )
