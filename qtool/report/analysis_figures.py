"""Figures of an analysis in words, and the columns of its tables, shared by the renderers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from qtool.errors import counted
from qtool.report.analysis import Advice, Analysis
from qtool.report.figures import decibels
from qtool.report.tables import percent

Columns = dict[str, tuple[Callable[[Any], str], bool]]
"""Title -> the text of a cell, and whether it holds names or sentences of the user's files."""


def verdict(analysis: Analysis) -> str:
    """'24.1 dB; made by onnxruntime; worst: conv3, 41.0% of the error'."""
    what = "measured" if analysis.quantized is not None else "simulated"
    parts = [f"{decibels(analysis.sqnr)} dB {what}" if math.isfinite(analysis.sqnr) else "no error"]
    if analysis.regions:
        worst = analysis.regions[0]
        why = "fault" if worst.problem else "worst"
        parts.append(f"{why}: {worst.name}, {percent(worst.share)} of the error")
    return f"{'; '.join(parts)}; {analysis.data}, {counted(analysis.cost.samples, 'sample')}"


def subject(analysis: Analysis) -> str:
    """The model that was analyzed, and its producer."""
    if analysis.quantized is None:
        return f"no quantized model was given; analyzed: what `{analysis.made_by}` makes"
    return f"{analysis.quantized.path} ({analysis.form}), made by {analysis.made_by}"


def cost_text(analysis: Analysis) -> str:
    """'14.5 runs over 8 samples, of at most 42'."""
    cost = analysis.cost
    return f"{cost.runs:.1f} runs over {counted(cost.samples, 'sample')}, of at most {cost.limit}"


def _db(attribute: str) -> Callable[[Any], str]:
    return lambda row: "" if math.isnan(value := getattr(row, attribute)) else decibels(value)


def _span(low: str, high: str) -> Callable[[Any], str]:
    def text(row: Any) -> str:
        ends = getattr(row, low), getattr(row, high)
        return "" if math.isnan(ends[0]) else f"{ends[0]:.3g}..{ends[1]:.3g}"

    return text


def _channels(tensor: Any) -> str:
    channels = tensor.channels
    if channels is None:
        return ""
    parts = [f"{len(channels.low)}"]
    parts += [f"{len(channels.dead)} dead"] if channels.dead else []
    parts += [f"{counted(len(channels.outliers), 'outlier')}"] if channels.outliers else []
    return ", ".join(parts)


REGIONS: Columns = {
    "region": (lambda r: r.name, True),
    "ops": (lambda r: ", ".join(dict.fromkeys(r.ops)), True),
    "local dB": (_db("sqnr"), False),
    "accumulated dB": (_db("accumulated"), False),
    "share": (lambda r: percent(r.share), False),
    "fault": (lambda r: r.problem, True),
}
TENSORS: Columns = {
    "tensor": (lambda t: t.name, True),
    "is": (lambda t: f"{t.kind} {t.qtype}".strip(), False),
    "local dB": (_db("sqnr"), False),
    "accumulated dB": (_db("accumulated"), False),
    "share": (lambda t: percent(t.share), False),
    "RMSE/scale": (lambda t: "" if math.isnan(t.rmse_steps) else f"{t.rmse_steps:.3f}", False),
    "clipped": (lambda t: percent(t.clipped) if t.clipped else "", False),
    "range": (_span("low", "high"), False),
    "grid": (_span("grid_low", "grid_high"), False),
    "channels": (_channels, False),
    "fault": (lambda t: t.problem, True),
}
BLOCKS: Columns = {
    "block": (lambda b: b.name, True),
    "regions": (lambda b: f"{b.regions}", False),
    "share": (lambda b: percent(b.share), False),
}


def gain_text(advice: Advice) -> str:
    """'+3.1 dB predicted, to 27.2 dB; +2.9 measured'."""
    text = f"{advice.gain:+.1f} dB predicted, to {decibels(advice.sqnr)} dB"
    if math.isnan(advice.measured):
        return text
    return f"{text}; measured {decibels(advice.measured)} dB"
