"""The page of a bench."""

from __future__ import annotations

import math

from qtool.commands.bench import FASTER, Bench, Benched
from qtool.errors import bytes_text, counted
from qtool.report.bench import facts, short_names, verdict_text
from qtool.report.columns import Column, Columns, name_of, number_of
from qtool.report.html import charts
from qtool.report.html.page import Page, Section, Tone, render_page, reproduce, table


def to_html(bench: Bench) -> str:
    """Return a bench as one HTML file that needs nothing beside it.

    Raises:
        EnvironmentFailure: jinja2 or matplotlib is missing.
    """
    return render_page(_page(bench))


def _page(bench: Bench) -> Page:
    named = dict(zip(short_names(bench), bench.models, strict=True))
    ratios = {name: model.speedup for name, model in named.items() if model.speedup is not None}
    verdict = "; ".join(f"{name}: {verdict_text(named[name])}" for name in ratios)
    faster = any(model.verdict == FASTER for model in bench.models)
    tone: Tone = "bad" if bench.failed else "good" if faster else "neutral"
    rows = {name: (ratio.low, ratio.median, ratio.high) for name, ratio in ratios.items()}
    label = "times as fast as the first model, with 95% intervals"
    speed = Section(
        "Speed",
        facts=tuple(facts(bench)),
        charts=(charts.intervals(rows, label),) if rows else (),
        table=table(_MODELS, bench.models),
    )
    note = "By onnxruntime's profiler, as it runs them: compare the shares."
    ops = (
        Section(f"Ops of {name}", note, table=table(_OPS, model.op_times.ops))
        for name, model in named.items()
        if model.op_times is not None
    )
    gates = (
        f"{len(bench.failed)} of {counted(len(bench.gates), 'gate')} failed" if bench.gates else "no gates"
    )
    return Page(
        title=f"qtool bench: {gates}",
        tone=tone,
        verdict=verdict or f"{bench.models[0].latency.p50:.3g} ms",
        models=tuple(model.path for model in bench.models),
        warnings=bench.warnings,
        sections=(
            Section("Gates", table=table(_GATES, bench.gates)),
            speed,
            *ops,
            reproduce(bench.arguments),
        ),
        version=bench.version,
    )


def _peak(model: Benched) -> float:
    return (model.memory.peak - model.memory.idle) / 1e6 if model.memory else math.nan


_GATES: Columns = {
    "model": name_of("model"),
    "fails if": Column(lambda g: g.result.gate.text),
    "verdict": Column(lambda g: "failed" if g.result.failed else "held", good=lambda g: not g.result.failed),
    "why": Column(lambda g: g.why, foreign=True),
}

_MODELS: Columns = {
    "model": name_of("path"),
    "p50 ms": number_of(lambda m: m.latency.p50),
    "p90 ms": number_of(lambda m: m.latency.p90 or math.nan, optional=True),
    "p99 ms": number_of(lambda m: m.latency.p99 or math.nan, optional=True),
    "speed": Column(verdict_text, value=lambda m: m.speedup.median if m.speedup else 1.0, optional=True),
    "bytes": Column(lambda m: bytes_text(m.bytes), value=lambda m: m.bytes),
    "of the first": number_of(lambda m: m.size_ratio, "{:.2f}"),
    "load ms": number_of(lambda m: m.load_ms),
    "peak MB": number_of(_peak, "{:.1f}", optional=True),
}

_OPS: Columns = {
    "op": name_of("op"),
    "ms": number_of(lambda o: o.ms),
    "share": number_of(lambda o: o.share, "{:.1%}"),
    "nodes": number_of(lambda o: o.nodes, "{:,}"),
}
