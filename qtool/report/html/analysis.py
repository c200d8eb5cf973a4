"""The page of an analysis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from qtool.evaluate.analysis.model import RegionError, TensorError, TensorValues
from qtool.report.analysis import Analysis
from qtool.report.analysis_figures import (
    BLOCKS,
    REGIONS,
    TENSORS,
    cost_text,
    gain_text,
    subject,
    verdict,
)
from qtool.report.figures import decibels
from qtool.report.html import charts
from qtool.report.html.page import Details, Page, Section, figures, render_page, reproduce, table
from qtool.report.tables import percent

_WORST = 8
MOST_HISTOGRAMS = 4


def to_html(analysis: Analysis) -> str:
    """Return an analysis as one HTML file that needs nothing beside it.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    files = (analysis.fp32, analysis.quantized)
    return render_page(
        Page(
            title="qtool analyze",
            tone="bad" if analysis.problems else "neutral",
            verdict=verdict(analysis),
            models=tuple(file.path for file in files if file is not None),
            tiles=tuple(_tiles(analysis)),
            warnings=(*(f"{t.name}: {t.problem}" for t in analysis.problems), *analysis.warnings),
            sections=(
                _advice(analysis),
                depth(analysis.regions),
                regions(analysis.regions[:_WORST], analysis.tensors),
                Section("Blocks", table=table(BLOCKS, analysis.blocks)),
                Section("Regions", table=table(REGIONS, analysis.regions)),
                Section("Tensors", table=table(TENSORS, analysis.tensors)),
                Section("Cost", facts=(("model", subject(analysis)), ("inferences", cost_text(analysis)))),
                reproduce(analysis.arguments, {"FP32": analysis.fp32.sha256, "qtool": analysis.version}),
            ),
            version=analysis.version,
        )
    )


def _tiles(analysis: Analysis) -> Iterator[tuple[str, str]]:
    """Yield the figures that matter most."""
    text = decibels(analysis.sqnr)
    yield "SQNR of the worst output", text if text == "exact" else f"{text} dB"
    if analysis.regions:
        worst = analysis.regions[0]
        yield f"of the error: {worst.name}", percent(worst.share)
    if analysis.advice:
        yield "predicted gain of the first advice", f"{analysis.advice[0].gain:+.1f} dB"


def _advice(analysis: Analysis) -> Section:
    """The advice, each with its command."""
    facts = tuple((a.options, f"{gain_text(a)}. {a.why}") for a in analysis.advice)
    return Section("Advice", facts=facts, commands=tuple(a.command for a in analysis.advice))


def depth(rows: Sequence[RegionError]) -> Section:
    """Return the local and the accumulated error along the graph."""
    title = "SQNR along the depth of the graph"
    if len(rows) < 2:
        return Section(title)
    ordered = sorted(rows, key=lambda r: r.depth)
    series = {
        "local: this region alone quantized": [(r.depth, r.sqnr) for r in ordered],
        "accumulated: its result in the quantized model": [(r.depth, r.accumulated) for r in ordered],
    }
    series = {name: points for name, points in series.items() if any(not math.isnan(y) for _, y in points)}
    note = "Local error is measured at the outputs, accumulated error at the result of each region."
    return Section(title, note, charts=(charts.depth(series, title),))


def regions(rows: Sequence[RegionError], tensors: Sequence[TensorError]) -> Section:
    """Return the regions, each with the histograms of its tensors."""
    by_name = {tensor.name: tensor for tensor in tensors}
    details = []
    for place, region in enumerate(rows):
        own = [by_name[name] for name in region.tensors if name in by_name]
        facts = figures({
            "fault": region.problem,
            "share": f"{percent(region.share)} of the error at the outputs",
            "ops": ", ".join(dict.fromkeys(region.ops)),
            "nodes": ", ".join(region.nodes),
        })  # fmt: skip
        drawn = tuple(chart for tensor in own[:MOST_HISTOGRAMS] if (chart := _histogram(tensor)))
        facts += tuple((tensor.name, tensor_text(tensor, tensor.problem)) for tensor in own)
        summary = f"{decibels(region.sqnr)} dB: {region.name}"
        details.append(Details(summary, facts, drawn, open=place == 0))
    note = "Each with its tensors: values before and after quantization, and the ends of the integer grid."
    return Section("Worst regions", note, details=tuple(details))


def tensor_text(tensor: TensorError | TensorValues, problem: str = "") -> str:
    """Return the figures of a tensor in one line."""
    parts = [
        f"{tensor.kind} {tensor.qtype}".strip(),
        f"{decibels(tensor.own_sqnr)} dB rounded" if not math.isnan(tensor.own_sqnr) else "",
        f"RMSE/scale {tensor.rmse_steps:.3f}" if not math.isnan(tensor.rmse_steps) else "",
        f"{percent(tensor.clipped)} clipped" if tensor.clipped else "",
        problem,
    ]
    return ", ".join(part for part in parts if part)


def _histogram(tensor: TensorError) -> str:
    """The histogram of a tensor; '' where no values were at hand."""
    drawn = tensor.histogram
    if drawn is None:
        return ""
    ends = drawn.low, drawn.high
    return charts.histogram(ends, drawn.before, drawn.after, (tensor.grid_low, tensor.grid_high), tensor.name)
