"""The range estimators of --method; calibration/estimators/ has the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One range estimator.

    Args:
        needs_histogram: whether the observer must collect a histogram, and not extremes only.
    """

    name: str
    summary: str
    needs_histogram: bool = True


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("minmax", "the whole observed range", needs_histogram=False),
        Method(
            "moving-average",
            "the means over samples of the least and the greatest value",
            needs_histogram=False,
        ),
        Method("percentile", "all but the outermost 0.01%"),
        Method("entropy", "least loss of information (Kullback-Leibler)"),
        Method("mse", "least expected squared error"),
        Method(
            "auto",
            "for each tensor the method of least expected squared error, if clearly better than minmax",
        ),
    )
}
