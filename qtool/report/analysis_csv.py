"""An analysis as CSV: a row a tensor, all measures."""

from __future__ import annotations

from dataclasses import fields

from qtool.evaluate.analysis.model import TensorError
from qtool.report.analysis import Analysis
from qtool.report.csv import csv_text

_LEFT_OUT = {"nodes", "channels", "histogram"}
MEASURES = [f.name for f in fields(TensorError) if f.name not in _LEFT_OUT]


def to_csv(analysis: Analysis) -> str:
    """A heading and a row a tensor; numbers in full, with inf and nan."""
    model = (analysis.quantized or analysis.fp32).path
    rows = (
        [model, analysis.data, *(getattr(tensor, name) for name in MEASURES)] for tensor in analysis.tensors
    )
    return csv_text(["model", "data", *MEASURES], rows)
