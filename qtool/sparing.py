"""Which columns of which activations stay in float beside an int8 product: where the outputs gain by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qtool.data.samples import Source as Samples
from qtool.job import Job
from qtool.measure.columns import reaches
from qtool.measure.sensitivity import sensitivity
from qtool.plan.model import OutlierColumns
from qtool.plan.outlier_columns import can_split_columns
from qtool.plan.predict import Errors, key_of
from qtool.planning import Planned, Planner
from qtool.recovering import wanted

# How many columns are tried. They cost little beside the sum with what they make, which is the same for any.
_COUNTS = (1, 2, 4, 8, 16)
# An activation is looked at when its noise alone is more than this share of what is aimed at ..
_SHARE = 0.05
# .. which is so many dB better than the least that is allowed: what is not lost here need not go to float.
_ABOVE_DB = 8.0
# And spared where its noise falls to this much of what it was; by the fewest columns that come as near to the
# least noise that any number of them leaves.
_WORTH = 0.5
_NEAR = 1.6


def spare(
    job: Job, planner: Planner, samples: Samples, everything: Planned, errors: Errors, floor_db: float
) -> tuple[Mapping[str, OutlierColumns], Errors]:
    """What to spare, and the errors as they are then.

    Args:
        job: the model.
        planner: makes its plans, and has the samples that set its ranges.
        samples: held-out ones.
        everything: the plan with all that can be in int8.
        errors: of all that it quantizes.
        floor_db: the least SQNR that is allowed.
    """
    if planner.calib is None or "columns" not in wanted(job.options):
        return {}, errors
    noise = _SHARE * 10 ** (-(floor_db + _ABOVE_DB) / 10)
    sites = {s.value: s for s in everything.plan.sites if can_split_columns(job.view, s)}
    loud = {v: key_of(s) for v, s in sites.items() if errors.relative(key_of(s)) > noise}
    found = reaches(job.prepared.model, list(loud), planner.calib, job.options.threads)
    tried: dict[str, dict[int, Errors]] = {value: {} for value in found}
    for count in _COUNTS:
        # Half of the columns at most: the others are the product.
        able = {v: reach.without(count) for v, reach in found.items() if reach.lo.size >= 2 * count}
        if not able:
            break
        plan = planner.plan(replace(everything.wish, spared=able)).plan
        keys = {loud[v] for v in able}
        measured = sensitivity(job.prepared.model, [plan], samples, job.options.threads, only=keys)
        for value in able:
            tried[value][count] = measured
    chosen: dict[str, OutlierColumns] = {}
    changed = dict(errors.noise)
    for value, by_count in tried.items():
        left = {count: e.relative(loud[value]) for count, e in by_count.items()}
        best = min(left.values(), default=errors.relative(loud[value]))
        if best > _WORTH * errors.relative(loud[value]):
            continue
        count = next(c for c in _COUNTS if left.get(c, best + 1) <= _NEAR * best)
        chosen[value] = found[value].without(count)
        changed[loud[value]] = by_count[count].noise[loud[value]]
    return chosen, replace(errors, noise=changed)
