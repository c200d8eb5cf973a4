"""An analysis as CSV: a row a tensor, all measures."""

from __future__ import annotations

import csv
import io
from dataclasses import fields

from qtool.evaluate.analysis.model import TensorError
from qtool.report.analysis import Analysis
from qtool.report.csv import cell

_LEFT_OUT = {"nodes", "channels", "histogram"}
MEASURES = [f.name for f in fields(TensorError) if f.name not in _LEFT_OUT]


def to_csv(analysis: Analysis) -> str:
    """A heading and a row a tensor; numbers in full, with inf and nan."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "data", *MEASURES])
    model = (analysis.quantized or analysis.fp32).path
    for tensor in analysis.tensors:
        own = [getattr(tensor, name) for name in MEASURES]
        writer.writerow(map(cell, [model, analysis.data, *own]))
    return stream.getvalue()
