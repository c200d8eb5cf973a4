"""Range search: choose the range estimator of each activation by the error at the outputs."""

from __future__ import annotations

from qtool.calibration.estimators import ESTIMATORS
from qtool.evaluate.evaluator import Evaluator
from qtool.plan.candidate import Candidate
from qtool.plan.model import Kind
from qtool.plan.predict import key_of
from qtool.runtime.heartbeat import StepProgress
from qtool.tables.methods import METHODS
from qtool.tables.ops import Bounds

# Tried beside --method's own ranges.
_METHODS = ("percentile", "mse", "moving-average")
# Activations with less than this share of the noise of all are skipped.
_SHARE = 0.02
# The most activations to search.
_MOST = 6
# The part of the budget for each method.
_PART = 0.03
# Another range is chosen where the noise falls to this share.
_WORTH = 0.9


def search_ranges(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
    """Return the candidate with ranges of less error, for the activations with the most noise.

    The errors are measured on the select set: on the samples that set the ranges wide ones look worse than
    they are. The histograms are those of the calibration.
    """
    plan = candidate.plan
    if evaluator.select is None:
        return candidate
    sites = [s for s in plan.sites if s.kind is Kind.ACTIVATION and s.value not in plan.outlier_columns]
    keys = {key_of(s) for s in sites}
    before = evaluator.errors_of(candidate, keys=keys)
    total = sum(map(before.relative, keys))
    loud = sorted((k for k in keys if before.relative(k) > _SHARE * total), key=before.relative)[-_MOST:]
    sites = [s for s in sites if key_of(s) in loud]
    least = {key: before.relative(key) * _WORTH for key in loud}
    chosen: dict[str, Bounds] = {}
    for done, method in enumerate(_METHODS, start=1):
        counted = {s.value: s for s in sites if candidate.ranges[s.value].histogram is not None}
        if METHODS[method].needs_histogram and not counted:
            continue  # the ranges come from a file without histograms
        able = counted if METHODS[method].needs_histogram else {s.value: s for s in sites}
        bounds = {v: ESTIMATORS[method](candidate.ranges[v], s.spec) for v, s in able.items()}
        other = candidate.changed(bounds={**candidate.bounds, **bounds})
        after = evaluator.errors_of(other, keys=loud, part=_PART)
        for key in loud:
            if key in after.noise and after.relative(key) < least[key]:
                least[key] = after.relative(key)
                chosen |= {v: own for v, own in bounds.items() if key_of(able[v]) == key}
        progress(done, len(_METHODS))
    return candidate.changed(bounds={**candidate.bounds, **chosen}) if chosen else candidate
