"""The report as CSV: a row an output, all measures; files of many runs can be put one below the other."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from qtool.errors import printable
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.report.model import Report

MEASURES = [f.name for f in fields(OutputMetrics) if f.name != "name"]
COLUMNS = ["model", "data", "samples", "output", *MEASURES]
_LONGEST = 1000
# What a spreadsheet takes for a formula, which could call programs.
_FORMULA = ("=", "+", "-", "@")


def to_csv(report: Report) -> str:
    """A heading and a row an output; numbers in full, with inf and nan; columns as COLUMNS."""
    rows = []
    comparison = report.comparison
    if comparison is not None:
        model = report.quantized.path if report.quantized else ""
        for output in comparison.outputs:
            own = [getattr(output, name) for name in MEASURES]
            rows.append([model, comparison.data, comparison.samples, output.name, *own])
    return csv_text(COLUMNS, rows)


def csv_text(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a heading and rows as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(map(_cell, row) for row in (heads, *rows))
    return stream.getvalue()


def _cell(value: Any) -> Any:
    """Foreign text on one line, and never a formula; a nan of any kind."""
    if isinstance(value, str):
        clean = printable(value, _LONGEST)
        return f"'{clean}" if clean.startswith(_FORMULA) else clean
    if isinstance(value, bool):
        return str(value).lower()
    return "nan" if isinstance(value, float) and math.isnan(value) else value
