"""The columns of a report's tables, which Markdown and HTML render: what a cell says, never how it looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qtool.evaluate.gates import GateResult
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.report.figures import decibels, row_text, share, trial_speed
from qtool.report.model import FLOAT, CoverageRow, Report, heading

_MOST_REASONS = 3


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        text: a row -> the text of its cell; '' for none.
        foreign: the text is a name from somebody's file, or holds one.
        name: the whole text is such a name.
        value: a row -> the number that the column is sorted by; None: by the text.
        optional: left out where no cell says something.
        good: a row -> whether what the cell says is good; None: it is neither good nor bad.
    """

    text: Callable[[Any], str]
    foreign: bool = False
    name: bool = False
    value: Callable[[Any], float] | None = None
    optional: bool = False
    good: Callable[[Any], bool] | None = None


Columns = Mapping[str, Column]


def name_of(attribute: str) -> Column:
    """A column of names, such as those of nodes."""
    return Column(lambda row: getattr(row, attribute), foreign=True, name=True)


def prose_of(attribute: str) -> Column:
    """A column of sentences, which may hold names."""
    return Column(lambda row: str(getattr(row, attribute)), foreign=True)


def number_of(get: Callable[[Any], float], form: str = "{:.3g}", optional: bool = False) -> Column:
    """A column of numbers; nan is an empty cell."""
    return Column(
        lambda row: "" if math.isnan(get(row)) else form.format(get(row)), value=get, optional=optional
    )


def shown(columns: Columns, rows: Sequence[Any]) -> dict[str, Column]:
    """Return the columns without optional ones that say nothing."""
    return {
        title: column
        for title, column in columns.items()
        if not column.optional or any(column.text(row) for row in rows)
    }


def _gate_value(gate: GateResult) -> str:
    value = "nothing to judge" if math.isnan(gate.value) else f"{gate.value:.4g}"
    return f"{value} ({gate.interval[0]:.4g} to {gate.interval[1]:.4g})" if gate.interval else value


def _gate_verdict(gate: GateResult) -> str:
    if gate.synthetic:
        return "random data"
    return "inconclusive" if gate.inconclusive else "failed" if gate.failed else "held"


GATES: Columns = {
    "fails if": Column(lambda g: g.gate.text, foreign=True, name=True),
    "value": Column(_gate_value, value=lambda g: g.value),
    "threshold": number_of(lambda g: g.gate.threshold, "{:g}"),
    "samples": number_of(lambda g: g.samples, "{}"),
    "verdict": Column(_gate_verdict, good=lambda g: not g.failed),
}


def _measure(text: Callable[[OutputMetrics], str], value: Callable[[OutputMetrics], float]) -> Column:
    """A measure of floats, which other outputs lack."""
    return Column(lambda o: "" if o.exact else text(o), value=value, optional=True)


OUTPUTS: Columns = {
    "output": name_of("name"),
    "SQNR dB": _measure(lambda o: decibels(o.sqnr), lambda o: o.sqnr),
    "worst sample dB": _measure(
        lambda o: decibels(o.sqnr_worst) if o.worst_sample else "", lambda o: o.sqnr_worst
    ),
    "worst sample": Column(
        lambda o: "" if o.exact else o.worst_sample, foreign=True, name=True, optional=True
    ),
    "mean dB": _measure(lambda o: decibels(o.sqnr_mean), lambda o: o.sqnr_mean),
    "centred dB": _measure(lambda o: decibels(o.centred_sqnr), lambda o: o.centred_sqnr),
    "cosine": _measure(lambda o: f"{o.cosine:.5f}", lambda o: o.cosine),
    "rel. L2": _measure(lambda o: f"{o.relative_l2:.3g}", lambda o: o.relative_l2),
    "max error": _measure(lambda o: f"{o.max_error:.3g}", lambda o: o.max_error),
    "mean": _measure(lambda o: f"{o.mean_error:.3g}", lambda o: o.mean_error),
    "p99": _measure(lambda o: f"{o.p99_error:.3g}", lambda o: o.p99_error),
    "mismatch": _measure(lambda o: f"{o.mismatch:.3g}", lambda o: o.mismatch),
    "top-1": _measure(lambda o: share(o.top1, o.top1_interval) if o.rows else "", lambda o: o.top1),
    "top-5": _measure(lambda o: share(o.top5, o.top5_interval) if o.rows else "", lambda o: o.top5),
    "KL": _measure(lambda o: f"{o.kl:.3g}" if o.rows else "", lambda o: o.kl),
    "rows": Column(lambda o: row_text(o) if o.matchable else "", optional=True),
    "not finite": Column(lambda o: f"{o.nonfinite}" if o.nonfinite else "", optional=True),
    "differ": Column(lambda o: f"{o.unequal} of {o.count}" if o.exact else "", optional=True),
}


def coverage_columns(rows: Sequence[CoverageRow]) -> Columns:
    """Return an op, a column a kind that some node is counted as, and the reasons."""
    kinds = [k for k in dict.fromkeys(k for row in rows for k in row.counts) if k != FLOAT]

    def count(kind: str) -> Column:
        return Column(
            lambda r: str(r.counts.get(kind) or ""),
            value=lambda r: r.counts.get(kind, 0),
            optional=kind == FLOAT,
        )

    return {
        "op": name_of("op"),
        **{heading(kind): count(kind) for kind in (*kinds, FLOAT)},
        "why in float": Column(_reasons, foreign=True, optional=True),
    }


def _reasons(row: CoverageRow) -> str:
    shown = [f"{c.reason} ({c.count})" for c in row.reasons[:_MOST_REASONS]]
    more = len(row.reasons) - _MOST_REASONS
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def trial_columns(report: Report) -> Columns:
    """Return the columns of the candidates of a report."""
    front = set(report.front)
    return {
        "plan": name_of("name"),
        "speed": Column(
            lambda t: trial_speed(t) if t.timed else f"{t.speedup:.2f}x (predicted)",
            value=lambda t: t.speedup,
        ),
        "select SQNR dB": Column(lambda t: decibels(t.sqnr), value=lambda t: t.sqnr),
        "bytes": number_of(lambda t: t.bytes, "{:,}"),
        "int8 regions": Column(lambda t: str(t.regions or ""), value=lambda t: t.regions, optional=True),
        "": Column(lambda t: "chosen" if t.name == report.chosen else "" if t.name in front else "dominated"),
    }


EXPLAINED: Columns = {
    "node": name_of("node"),
    "op": name_of("op"),
    "is": Column(lambda e: heading(e.kind) if e.kind else ""),
    "float µs": Column(
        lambda e: f"{e.region.float_us:.1f}" if e.region else "",
        value=lambda e: e.region.float_us if e.region else math.nan,
        optional=True,
    ),
    "int8 µs": Column(
        lambda e: f"{e.region.int8_us:.1f}" if e.region else "",
        value=lambda e: e.region.int8_us if e.region else math.nan,
        optional=True,
    ),
    "isolated dB": Column(
        lambda e: decibels(e.region.sqnr) if e.region and not math.isnan(e.region.sqnr) else "",
        value=lambda e: e.region.sqnr if e.region else math.nan,
        optional=True,
    ),
    "why": prose_of("why"),
}

DEVIATIONS: Columns = {
    "node": name_of("node"),
    "op": name_of("op"),
    "planned": prose_of("planned"),
    "kernels": Column(lambda d: ", ".join(d.kernels), foreign=True, name=True),
    "what": prose_of("what"),
}
