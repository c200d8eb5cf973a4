"""Figures of an analysis in words, and the columns of its tables, shared by the renderers."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

from qtool.errors import counted
from qtool.report.analysis import Advice, Analysis
from qtool.report.columns import Column, Columns, name_of, number_of
from qtool.report.figures import decibels
from qtool.report.tables import percent
from qtool.tables.runtimes import DEFAULT


def verdict(analysis: Analysis) -> str:
    """'24.1 dB measured in openvino:f32; worst: conv3, 41.0% of the error; eval/, 8 samples'."""
    place = "" if analysis.runtime in ("", DEFAULT) else f" in {analysis.runtime}"
    what = f"measured{place}" if analysis.runtime else "simulated"
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


def _db(attribute: str) -> Column:
    def text(row: Any) -> str:
        return "" if math.isnan(value := getattr(row, attribute)) else decibels(value)

    return Column(text, value=attrgetter(attribute), optional=True)


def _share(attribute: str) -> Column:
    return Column(
        lambda row: percent(getattr(row, attribute)) if getattr(row, attribute) else "",
        value=attrgetter(attribute),
        optional=True,
    )


def _span(low: str, high: str) -> Column:
    def text(row: Any) -> str:
        ends = getattr(row, low), getattr(row, high)
        return "" if math.isnan(ends[0]) else f"{ends[0]:.3g}..{ends[1]:.3g}"

    return Column(text, optional=True)


def _channels(tensor: Any) -> str:
    channels = tensor.channels
    if channels is None:
        return ""
    parts = [f"{len(channels.low)}"]
    parts += [f"{len(channels.dead)} dead"] if channels.dead else []
    parts += [f"{counted(len(channels.outliers), 'outlier')}"] if channels.outliers else []
    return ", ".join(parts)


_FAULT = Column(lambda row: row.problem, foreign=True, optional=True)
REGIONS: Columns = {
    "region": name_of("name"),
    "ops": Column(lambda r: ", ".join(dict.fromkeys(r.ops)), foreign=True),
    "local dB": _db("sqnr"),
    "accumulated dB": _db("accumulated"),
    "share": _share("share"),
    "fault": _FAULT,
}
TENSORS: Columns = {
    "tensor": name_of("name"),
    "is": Column(lambda t: f"{t.kind} {t.qtype}".strip()),
    "local dB": _db("sqnr"),
    "accumulated dB": _db("accumulated"),
    "share": _share("share"),
    "RMSE/scale": number_of(lambda t: t.rmse_steps, "{:.3f}", optional=True),
    "clipped": _share("clipped"),
    "range": _span("low", "high"),
    "grid": _span("grid_low", "grid_high"),
    "channels": Column(_channels, optional=True),
    "fault": _FAULT,
}
BLOCKS: Columns = {
    "block": name_of("name"),
    "regions": number_of(lambda b: b.regions, "{}"),
    "share": _share("share"),
}


def gain_text(advice: Advice) -> str:
    """'+3.1 dB predicted, to 27.2 dB; +2.9 measured'."""
    text = f"{advice.gain:+.1f} dB predicted, to {decibels(advice.sqnr)} dB"
    if math.isnan(advice.measured):
        return text
    return f"{text}; measured {decibels(advice.measured)} dB"
