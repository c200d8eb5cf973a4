"""Range search: choose the range estimator of each activation by the error at the outputs."""

from __future__ import annotations

from collections.abc import Mapping

from qtool.calibration.estimators import ESTIMATORS
from qtool.calibration.runner import calibrate
from qtool.data.samples import Part, Samples, evenly
from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.sensitivity import sensitivity
from qtool.plan.activations import nonnegative
from qtool.plan.candidate import Candidate
from qtool.plan.model import Kind, Site
from qtool.plan.predict import key_of
from qtool.runtime.heartbeat import StepProgress
from qtool.tables.ops import Bounds

# Tried beside --method's own ranges.
_METHODS = ("percentile", "mse", "moving-average")
# Activations with less than this share of the noise of all are skipped.
_SHARE = 0.01
# The most activations to search, and the samples to measure them on: clipped values are rare, and few samples
# may have none.
_MOST = 16
_SAMPLES = 24
# Samples for the histograms, from the calibrate set.
_CALIBRATED = 128
# Another range is chosen where the noise falls to this share.
_WORTH = 0.9


def search_ranges(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
    """Return the candidate with ranges of less error, for the activations with the most noise.

    The errors are measured on the select set: on the samples that set the ranges wide ones look worse than
    they are.
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
    total = sum(map(first.relative, keys))
    loud = sorted((k for k in keys if first.relative(k) > _SHARE * total), key=first.relative)[-_MOST:]
    sites = [s for s in sites if key_of(s) in loud]
    if not sites:
        return candidate
    before = sensitivity(model.model, [candidate.plan], select, model.threads, keys=loud, most=_SAMPLES)
    least = {key: before.relative(key) * _WORTH for key in loud}
    chosen: dict[str, Bounds] = {}
    for bounds in _bounds_by_method(candidate, sites, calib, progress):
        plan = candidate.changed(bounds={**candidate.bounds, **bounds}).plan
        after = sensitivity(model.model, [plan], select, model.threads, keys=loud, most=_SAMPLES)
        for key in loud:
            if key in after.noise and after.relative(key) < least[key]:
                least[key] = after.relative(key)
                chosen |= {s.value: bounds[s.value] for s in sites if key_of(s) == key}
    return candidate.changed(bounds={**candidate.bounds, **chosen}) if chosen else candidate


def _bounds_by_method(
    candidate: Candidate, sites: list[Site], calib: Samples, progress: StepProgress
) -> list[Mapping[str, Bounds]]:
    """The ranges by each method, from histograms."""
    model, values = candidate.model, [s.value for s in sites]
    ranges = calibrate(
        model.model,
        values,
        Part(calib, evenly(len(calib), _CALIBRATED), calib.name),
        threads=model.threads,
        histograms=True,
        positive=nonnegative(model.view, values),
        progress=progress,
    )
    return [{s.value: ESTIMATORS[name](ranges[s.value], s.spec) for s in sites} for name in _METHODS]
