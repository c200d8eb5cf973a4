"""The page of a report of quantize, tune or compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from qtool.errors import bytes_text, counted
from qtool.evaluate.analysis.model import TensorValues
from qtool.plan.model import RegionNote
from qtool.report.columns import (
    DEVIATIONS,
    EXPLAINED,
    GATES,
    OUTPUTS,
    Column,
    Columns,
    coverage_columns,
    number_of,
    trial_columns,
)
from qtool.report.figures import (
    audit_lines,
    cost_line,
    decibels,
    labels_text,
    merged,
    ordered,
    selection_lines,
    size_text,
    speed_lines,
)
from qtool.report.html import charts
from qtool.report.html.analysis import MOST_HISTOGRAMS, tensor_text
from qtool.report.html.page import Details, Page, Picture, Section, figures, render_page, reproduce, table
from qtool.report.model import Report
from qtool.report.verdict import gates_line, tone, verdict_line

_WORST = 8
_AGAINST = {"original": "the original", "prepared": "optimized FP32"}


def to_html(report: Report) -> str:
    """Return a report as one HTML file that needs nothing beside it.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    return render_page(_page(report))


def _page(report: Report) -> Page:
    return Page(
        title=f"qtool {report.command}: {gates_line(report)}",
        tone=tone(report),
        verdict=verdict_line(report),
        models=tuple(m.path for m in (report.fp32, report.quantized) if m is not None),
        tiles=tuple(_tiles(report)),
        warnings=report.warnings,
        sections=(
            Section(
                "Gates",
                "What the result must hold, judged on the judge set.",
                table=table(GATES, report.gates),
            ),
            _cost(report),
            _front(report),
            _fidelity(report),
            _worst_samples(report),
            _depth(report),
            _regions(report),
            _recovered(report),
            _nodes(report),
            _audit(report),
            reproduce(
                report.arguments,
                {"plan": report.plan_sha256, "FP32": report.fp32.sha256, "qtool": report.version},
            ),
        ),
        version=report.version,
    )


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the figures that matter most."""
    if report.race is not None:
        ratio = report.race.speedup["original"]
        yield f"as fast as FP32 (95%: {ratio.low:.2f}-{ratio.high:.2f})", f"{ratio.median:.2f}x"
    if report.quantized is not None:
        ratio_of = report.fp32.bytes / max(report.quantized.bytes, 1)
        yield (
            f"smaller: {bytes_text(report.fp32.bytes)} → {bytes_text(report.quantized.bytes)}",
            f"{ratio_of:.2f}x",
        )
    comparison = report.comparison
    if comparison is not None and not math.isnan(comparison.sqnr):
        low, high = comparison.sqnr_interval
        ends = f" (95%: {low:.1f}-{high:.1f})" if math.isfinite(low) else ""
        text = decibels(comparison.sqnr)
        yield f"SQNR{ends}", text if text == "exact" else f"{text} dB"
    if comparison is not None and comparison.accuracy is not None:
        yield f"accuracy; FP32 has {comparison.accuracy.fp32:.1%}", f"{comparison.accuracy.quantized:.1%}"
    for name, value in comparison.user_metrics.items() if comparison else ():
        yield name, f"{value:.4g}"
    if report.coverage:
        total = sum(row.total for row in report.coverage)
        yield (
            f"of {counted(total, 'node')} quantized ({report.mode}, target {report.target})",
            f"{report.quantized_nodes}",
        )


def _cost(report: Report) -> Section:
    rows = (
        {f"against {_AGAINST.get(k, k)}": (r.low, r.median, r.high) for k, r in report.race.speedup.items()}
        if report.race
        else {}
    )
    if report.race is not None and report.race.preparation is not None:
        ratio = report.race.preparation
        rows["preparation alone"] = ratio.low, ratio.median, ratio.high
    facts = [
        ("size", size_text(report)),
        *(("speed", line) for line in speed_lines(report)),
        ("search", cost_line(report)),
    ]
    drawn = charts.intervals(rows, "times as fast, with 95% intervals") if rows else ""
    return Section("Speed and size", facts=tuple(f for f in facts if f[1]), charts=(drawn,) if drawn else ())


def _front(report: Report) -> Section:
    if len(report.trials) < 2:
        return Section("Pareto front")
    note = "Every candidate was built and run on the select set. Hollow: dominated in speed, SQNR and size."
    return Section(
        "Pareto front",
        note,
        charts=(charts.front(report),),
        table=table(trial_columns(report), ordered(report)),
    )


def _fidelity(report: Report) -> Section:
    comparison = report.comparison
    if comparison is None:
        return Section("Outputs")
    samples = counted(comparison.samples, "sample")
    note = (
        f"Against FP32 on {samples} of {comparison.data}. 20 dB is an error of 10%, 30 dB of 3%, 40 dB of 1%."
    )
    facts = [("SQNR", line) for line in selection_lines(report)]
    if (a := comparison.accuracy) is not None:
        facts.append(("accuracy", f"{a.fp32:.4f} → {a.quantized:.4f} ({labels_text(a, comparison.samples)})"))
    return Section("Outputs", note, tuple(facts), table=table(OUTPUTS, comparison.outputs))


def _worst_samples(report: Report) -> Section:
    """The samples on which the models differ most, as images, signals or texts where they are."""
    worst = report.comparison.worst_samples if report.comparison else ()
    pictures = tuple(
        Picture(
            sample.name,
            f"{decibels(sample.sqnr)} dB of {sample.output}",
            charts.picture(sample.shape, sample.pixels),
            charts.curve(sample.signal, sample.name) if sample.signal else "",
            sample.text,
        )
        for sample in worst
    )
    return Section("Samples that differ most", "The SQNR of their worst output.", pictures=pictures)


def _measured(report: Report) -> list[tuple[int, RegionNote]]:
    """Return the regions whose isolated SQNR was measured, with their places in the graph."""
    return [(i, r) for i, r in enumerate(report.regions) if not math.isnan(r.sqnr)]


def _depth(report: Report) -> Section:
    """SQNR along the graph: of each region, quantized alone."""
    title = "SQNR along the depth of the graph"
    measured = _measured(report)
    if len(measured) < 2:
        return Section(title)
    series = {
        "in int8": [(i, r.sqnr) for i, r in measured if r.quantized],
        "left in float": [(i, r.sqnr) for i, r in measured if not r.quantized],
    }
    series = {name: points for name, points in series.items() if points}
    note = (
        "Local error: the SQNR at the outputs where one region alone is quantized, in the order of the graph."
    )
    return Section(title, note, charts=(charts.depth(series, title),))


def _regions(report: Report) -> Section:
    worst = sorted((r for _, r in _measured(report)), key=lambda r: r.sqnr)[:_WORST]
    if not worst:
        return _tensors(report)
    note = (
        "Nodes that are quantized together, those that cost the outputs most first. Of those in int8: values "
        "before and after quantization, as calibration saw them."
    )
    details = tuple(_region(r, _own(report, r), i == 0) for i, r in enumerate(worst))
    return Section("Worst regions", note, details=details)


def _own(report: Report, region: RegionNote) -> list[TensorValues]:
    """Return the tensors whose error counts for a region."""
    return [t for t in report.tensors if t.region in region.nodes]


def _tensors(report: Report) -> Section:
    """The tensors that quantization changes most, where no region was measured."""
    note = (
        "Values before and after quantization, as calibration saw them, those with the largest error first."
    )
    details = tuple(
        Details(f"{t.name}, in {t.region}", ((t.kind, tensor_text(t)),), (_chart(t),), open=i == 0)
        for i, t in enumerate(report.tensors[:_WORST])
    )
    return Section("Worst tensors", note, details=details)


def _chart(tensor: TensorValues) -> str:
    clip = tensor.grid_low, tensor.grid_high
    return charts.histogram((tensor.low, tensor.high), tensor.before, tensor.after, clip, tensor.name)


def _region(region: RegionNote, tensors: Sequence[TensorValues], opened: bool) -> Details:
    more = f" and {len(region.nodes) - 1} more" if len(region.nodes) > 1 else ""
    state = "int8" if region.quantized else "float"
    facts = figures({
        "outcome": f"{state}: {region.why}",
        "ops": ", ".join(region.ops),
        "nodes": ", ".join(region.nodes),
        "time": f"{region.float_us:.1f} µs in float, {region.int8_us:.1f} µs in int8",
    })  # fmt: skip
    facts += tuple((t.name, tensor_text(t)) for t in tensors)
    drawn = tuple(_chart(t) for t in tensors[:MOST_HISTOGRAMS])
    summary = f"{decibels(region.sqnr)} dB: {region.nodes[0] if region.nodes else ''}{more}"
    return Details(summary, facts, drawn, open=opened)


_GAINS: Columns = {
    "step": Column(lambda g: g.name),
    "before dB": Column(lambda g: "" if g.failed else decibels(g.before), value=lambda g: g.before),
    "after dB": Column(lambda g: "" if g.failed else decibels(g.after), value=lambda g: g.after),
    "gain dB": number_of(lambda g: g.after - g.before, "{:+.1f}"),
    "seconds": number_of(lambda g: g.seconds, "{:.1f}"),
    "outcome": Column(
        lambda g: f"could not be tried: {g.failed}" if g.failed
        else "in the result" if g.applied else "kept, and not in the result" if g.kept else "rejected"
    ),
}  # fmt: skip


def _recovered(report: Report) -> Section:
    note = "What each step of recovery bought on the select set. A step that does not help is rejected."
    return Section("Recovery", note, table=table(_GAINS, report.recovered))


def _nodes(report: Report) -> Section:
    """Every node and the reason for its outcome; where no node was recorded, those that were asked about."""
    regions = {name: region for region in report.regions for name in region.nodes}
    nodes = [replace(n, region=regions.get(n.node)) for n in report.nodes] or list(report.explained)
    return Section("What became of each op", facts=tuple(_op_facts(report)), table=table(EXPLAINED, nodes))


def _op_facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield for each op type how many nodes are counted as what."""
    for row in merged(report.coverage):
        columns = coverage_columns([row])
        counts = [
            f"{text} {title}" for title, column in list(columns.items())[1:-1] if (text := column.text(row))
        ]
        yield row.op, ", ".join(counts)


def _audit(report: Report) -> Section:
    if report.audit is None:
        return Section("Audit")
    facts = [("audit", line.removeprefix("audit: ")) for line in audit_lines(report)[:2]]
    note = "The kernels that onnxruntime has for the written file, held against the plan."
    return Section("Audit", note, tuple(facts), table=table(DEVIATIONS, report.audit.deviations))
