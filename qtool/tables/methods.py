"""The ways to choose an activation's range: a row a method; calibration/estimators has the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One way to choose a range.

    Args:
        needs_histogram: whether counts must be kept, rather than extremes only.
    """

    name: str
    summary: str
    needs_histogram: bool = True


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("minmax", "all that was seen", needs_histogram=False),
        Method("moving-average", "the mean of each sample's least and greatest value", needs_histogram=False),
        Method("percentile", "all but the outermost 0.01%"),
        Method("entropy", "least information lost (Kullback-Leibler)"),
        Method("mse", "least expected squared error"),
        Method("auto", "of all these, tensor by tensor, the least expected squared error, if much less"),
    )
}
