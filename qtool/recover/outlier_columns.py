"""Outlier columns: columns of an activation that stay in float beside an int8 product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qtool.evaluate.evaluator import Evaluator
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
# The part of the budget for the errors with columns.
_PART = 0.08


def choose_columns(
    candidate: Candidate, evaluator: Evaluator, errors: TensorNoise
) -> tuple[Mapping[str, OutlierColumns], TensorNoise]:
    """Return the outlier columns that lower the error at the outputs, and the errors with them.

    Their number follows from the range without them: the noise of rounding grows with its square. Whether
    they help is measured, once.

    Args:
        candidate: the all-int8 candidate.
        evaluator: measures the errors on its select set.
        errors: of every tensor that the candidate quantizes.
    """
    model, statistics = candidate.model, evaluator.statistics
    if statistics is None or "columns" not in requested_steps(model.options):
        return {}, errors
    noise = _SHARE * 10 ** (-(evaluator.criteria.floor_db + _ABOVE_DB) / 10)
    sites = {s.value: s for s in candidate.plan.sites if can_split_columns(model.view, s)}
    loud = {v: key_of(s) for v, s in sites.items() if errors.relative(key_of(s)) > noise}
    channels = channel_statistics(model.model, dict.fromkeys(loud, -1), statistics, _SAMPLES, model.threads)
    tried = {v: split for v, own in channels.items() if (split := _fewest(own)) is not None}
    if not tried:
        return {}, errors
    other = candidate.changed(outlier_columns=tried)
    measured = evaluator.errors_of(other, keys={loud[v] for v in tried}, part=_PART)
    chosen = {
        v: split
        for v, split in tried.items()
        if measured.relative(loud[v]) <= _WORTH * errors.relative(loud[v])
    }
    quieter = {loud[v]: measured.noise[loud[v]] for v in chosen if loud[v] in measured.noise}
    return chosen, replace(errors, noise={**errors.noise, **quieter})


def _fewest(channels: ChannelStatistics) -> OutlierColumns | None:
    """Return the fewest columns whose absence lowers the noise enough; None where none do."""
    # Half of the columns at most: the others are the product.
    counts = [count for count in _COUNTS if channels.lo.size >= 2 * count]
    splits = {count: without_outliers(channels, count) for count in counts}
    before = (channels.hi.max(initial=0.0) - channels.lo.min(initial=0.0)) ** 2
    left = {count: (max(s.hi, 0.0) - min(s.lo, 0.0)) ** 2 / before for count, s in splits.items() if before}
    best = min(left.values(), default=1.0)
    if best > _WORTH:
        return None
    return splits[next(count for count in counts if left[count] <= _NEAR * best)]


def without_outliers(channels: ChannelStatistics, count: int) -> OutlierColumns:
    """Return the `count` columns with the greatest |x|, and the range of the others."""
    order = np.argsort(-channels.absmax, kind="stable")
    rest = order[count:]
    columns = tuple(sorted(int(i) for i in order[:count]))
    return OutlierColumns(columns, float(channels.lo[rest].min()), float(channels.hi[rest].max()))
