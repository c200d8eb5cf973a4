"""Outlier columns: columns of an activation that stay in float beside an int8 product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.sensitivity import sensitivity
from qtool.plan.candidate import Candidate
from qtool.plan.model import OutlierColumns
from qtool.plan.outlier_columns import can_split_columns
from qtool.plan.predict import TensorNoise, key_of
from qtool.recover.channel_statistics import ChannelStatistics, channel_statistics
from qtool.recover.run import requested_steps

_SAMPLES = 64
# The numbers of columns to try. Most of their time is that of one Add, the same for any number.
_COUNTS = (1, 2, 4, 8, 16)
# Tried for activations whose noise alone is more than this share of the target noise ..
_SHARE = 0.05
# .. and the target is this many dB above the floor: accuracy that is kept here need not be bought with float.
_ABOVE_DB = 8.0
# Columns are kept where the noise falls to this share: the fewest columns within _NEAR times the least noise.
_WORTH = 0.5
_NEAR = 1.6


def choose_columns(
    candidate: Candidate, evaluator: Evaluator, errors: TensorNoise
) -> tuple[Mapping[str, OutlierColumns], TensorNoise]:
    """Return the outlier columns that lower the error at the outputs, and the errors with them.

    Args:
        candidate: the all-int8 candidate.
        evaluator: measures the errors on its select set.
        errors: of every tensor that the candidate quantizes.
    """
    model, statistics, select = candidate.model, evaluator.statistics, evaluator.select
    if statistics is None or select is None or "columns" not in requested_steps(model.options):
        return {}, errors
    noise = _SHARE * 10 ** (-(evaluator.criteria.floor_db + _ABOVE_DB) / 10)
    sites = {s.value: s for s in candidate.plan.sites if can_split_columns(model.view, s)}
    loud = {v: key_of(s) for v, s in sites.items() if errors.relative(key_of(s)) > noise}
    channels = channel_statistics(model.model, dict.fromkeys(loud, -1), statistics, _SAMPLES, model.threads)
    tried: dict[str, dict[int, TensorNoise]] = {value: {} for value in channels}
    for count in _COUNTS:
        # Half of the columns at most: the others are the product.
        able = {v: without_outliers(own, count) for v, own in channels.items() if own.lo.size >= 2 * count}
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
        chosen[value] = without_outliers(channels[value], count)
        changed[loud[value]] = by_count[count].noise[loud[value]]
    return chosen, replace(errors, noise=changed)


def without_outliers(channels: ChannelStatistics, count: int) -> OutlierColumns:
    """Return the `count` columns with the greatest |x|, and the range of the others."""
    order = np.argsort(-channels.absmax, kind="stable")
    rest = order[count:]
    columns = tuple(sorted(int(i) for i in order[:count]))
    return OutlierColumns(columns, float(channels.lo[rest].min()), float(channels.hi[rest].max()))
