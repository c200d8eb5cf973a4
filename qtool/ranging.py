"""Which method sets the range of each activation: the one that makes the outputs err least, as measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qtool.calibrate.observers import OBSERVERS
from qtool.calibrate.runner import calibrate
from qtool.data.samples import Part, evenly
from qtool.data.samples import Source as Samples
from qtool.measure.sensitivity import sensitivity
from qtool.options import Progress
from qtool.plan.activations import positive
from qtool.plan.model import Kind, Site
from qtool.plan.predict import key_of
from qtool.planning import Planned
from qtool.tables.ops import Bounds

# Beside all that was seen, which is the rule.
_METHODS = ("percentile", "mse", "moving-average")
# Activations that make less noise than this share of all are left alone; and so many are looked at ..
_SHARE = 0.01
_MOST = 16
# .. on so many samples: what a narrow range cuts off is rare, and a few samples may lack it.
_SAMPLES = 24
# Of the samples that set ranges, those that histograms are made of.
_CALIBRATED = 128
# Another range is taken where the noise falls to this much of what it was.
_WORTH = 0.9


def narrowed(planned: Planned, calib: Samples, held_out: Samples, progress: Progress) -> Planned:
    """The same plan with ranges that err less, of the loudest activations; as it was, where there are none.

    Args:
        planned: resolved.
        calib: samples that set ranges.
        held_out: those that judge them: on its own samples the widest range often looks worst.
        progress: told how calibration goes.
    """
    job = planned.job
    model, threads = job.prepared.model, job.options.threads
    sites = [
        s
        for s in planned.plan.sites
        if s.kind is Kind.ACTIVATION and s.value not in planned.plan.outlier_columns
    ]
    keys = {key_of(s) for s in sites}
    first = sensitivity(model, [planned.plan], held_out, threads, only=keys)
    whole = sum(map(first.relative, keys))
    loud = sorted((k for k in keys if first.relative(k) > _SHARE * whole), key=first.relative)[-_MOST:]
    sites = [s for s in sites if key_of(s) in loud]
    if not sites:
        return planned
    before = sensitivity(model, [planned.plan], held_out, threads, only=loud, most=_SAMPLES)
    planner = planned.maker
    found = _of_methods(planned, sites, calib, progress)
    least = {key: before.relative(key) * _WORTH for key in loud}
    chosen: dict[str, Bounds] = {}
    for bounds in found:
        plan = planner.plan(replace(planned.wish, bounds={**planned.wish.bounds, **bounds})).plan
        after = sensitivity(model, [plan], held_out, threads, only=loud, most=_SAMPLES)
        for key in loud:
            if key in after.noise and after.relative(key) < least[key]:
                least[key] = after.relative(key)
                chosen |= {s.value: bounds[s.value] for s in sites if key_of(s) == key}
    if not chosen:
        return planned
    return planned.again(replace(planned.wish, bounds={**planned.wish.bounds, **chosen}))


def _of_methods(
    planned: Planned, sites: list[Site], calib: Samples, progress: Progress
) -> list[Mapping[str, Bounds]]:
    """What each method makes of the activations' histograms."""
    job, values = planned.job, [s.value for s in sites]
    seen = calibrate(
        job.prepared.model,
        values,
        Part(calib, evenly(len(calib), _CALIBRATED), calib.name),
        threads=job.options.threads,
        histograms=True,
        positive=positive(job.view, values),
        progress=lambda done, total: progress("calibrate", done, total),
    )
    return [{s.value: OBSERVERS[name](seen[s.value], s.spec) for s in sites} for name in _METHODS]
