"""Outlier columns: which columns of an activation stay in float beside an int8 product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.sensitivity import sensitivity
from qtool.plan.candidate import Candidate
from qtool.plan.model import OutlierColumns
from qtool.plan.outlier_columns import can_split_columns
from qtool.plan.predict import Errors, key_of
from qtool.recover.channel_ranges import reaches
from qtool.recover.run import requested_steps

# How many columns are tried. They cost little beside the sum with what they make, which is the same for any.
_COUNTS = (1, 2, 4, 8, 16)
# An activation is looked at when its noise alone is more than this share of what is aimed at ..
_SHARE = 0.05
# .. which is this many dB above the floor: what is not lost here need not go to float.
_ABOVE_DB = 8.0
# And spared where its noise falls to this much of what it was; by the fewest columns that come as near to the
# least noise that any number of them leaves.
_WORTH = 0.5
_NEAR = 1.6


def choose_columns(
    candidate: Candidate, evaluator: Evaluator, errors: Errors
) -> tuple[Mapping[str, OutlierColumns], Errors]:
    """Return the outlier columns where the outputs gain by them, and the errors as they are then.

    Args:
        candidate: with all that can be in int8.
        evaluator: its select set measures the errors.
        errors: of all that the candidate quantizes.
    """
    model, statistics, select = candidate.model, evaluator.statistics, evaluator.select
    if statistics is None or select is None or "columns" not in requested_steps(model.options):
        return {}, errors
    noise = _SHARE * 10 ** (-(evaluator.criteria.floor_db + _ABOVE_DB) / 10)
    sites = {s.value: s for s in candidate.plan.sites if can_split_columns(model.view, s)}
    loud = {v: key_of(s) for v, s in sites.items() if errors.relative(key_of(s)) > noise}
    found = reaches(model.model, list(loud), statistics, model.threads)
    tried: dict[str, dict[int, Errors]] = {value: {} for value in found}
    for count in _COUNTS:
        # Half of the columns at most: the others are the product.
        able = {v: reach.without(count) for v, reach in found.items() if reach.lo.size >= 2 * count}
        if not able:
            break
        plan = candidate.changed(outlier_columns=able).plan
        keys = {loud[v] for v in able}
        measured = sensitivity(model.model, [plan], select, model.threads, keys=keys)
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
