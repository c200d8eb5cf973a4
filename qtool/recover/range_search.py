"""Range search: which method sets the range of each activation, by the error at the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qtool.calibration.estimators import ESTIMATORS
from qtool.calibration.runner import calibrate
from qtool.data.samples import Part, Samples, evenly
from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.sensitivity import sensitivity
from qtool.plan.activations import positive
from qtool.plan.candidate import Candidate
from qtool.plan.model import Kind, Site
from qtool.plan.predict import key_of
from qtool.tables.ops import Bounds

# Beside all that was seen, which is the rule.
_METHODS = ("percentile", "mse", "moving-average")
# Activations that make less noise than this share of all are left alone.
_SHARE = 0.01
# The most activations to search, and the samples to measure them on: what a narrow range cuts off is rare,
# and fewer samples may lack it.
_MOST = 16
_SAMPLES = 24
# Of the samples that set ranges, those that histograms are made of.
_CALIBRATED = 128
# Another range is taken where the noise falls to this much of what it was.
_WORTH = 0.9


def search_ranges(
    candidate: Candidate, evaluator: Evaluator, progress: Callable[[int, int], None]
) -> Candidate:
    """Return the candidate with ranges that err less, of the activations with most noise.

    On the samples that set it the widest range often looks worst, so the select set measures.
    """
    model, calib, select = candidate.model, evaluator.statistics, evaluator.select
    if calib is None or select is None:
        return candidate
    sites = [
        s
        for s in candidate.plan.sites
        if s.kind is Kind.ACTIVATION and s.value not in candidate.plan.outlier_columns
    ]
    keys = {key_of(s) for s in sites}
    first = sensitivity(model.model, [candidate.plan], select, model.threads, keys=keys)
    whole = sum(map(first.relative, keys))
    loud = sorted((k for k in keys if first.relative(k) > _SHARE * whole), key=first.relative)[-_MOST:]
    sites = [s for s in sites if key_of(s) in loud]
    if not sites:
        return candidate
    before = sensitivity(model.model, [candidate.plan], select, model.threads, keys=loud, most=_SAMPLES)
    least = {key: before.relative(key) * _WORTH for key in loud}
    chosen: dict[str, Bounds] = {}
    for bounds in _of_methods(candidate, sites, calib, progress):
        plan = candidate.changed(bounds={**candidate.bounds, **bounds}).plan
        after = sensitivity(model.model, [plan], select, model.threads, keys=loud, most=_SAMPLES)
        for key in loud:
            if key in after.noise and after.relative(key) < least[key]:
                least[key] = after.relative(key)
                chosen |= {s.value: bounds[s.value] for s in sites if key_of(s) == key}
    return candidate.changed(bounds={**candidate.bounds, **chosen}) if chosen else candidate


def _of_methods(
    candidate: Candidate, sites: list[Site], calib: Samples, progress: Callable[[int, int], None]
) -> list[Mapping[str, Bounds]]:
    """What each method makes of the activations' histograms."""
    model, values = candidate.model, [s.value for s in sites]
    seen = calibrate(
        model.model,
        values,
        Part(calib, evenly(len(calib), _CALIBRATED), calib.name),
        threads=model.threads,
        histograms=True,
        positive=positive(model.view, values),
        progress=progress,
    )
    return [{s.value: ESTIMATORS[name](seen[s.value], s.spec) for s in sites} for name in _METHODS]
