"""An analysis as GitHub's Markdown, for a CI step's summary: the verdict and the advice first."""

from __future__ import annotations

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
from qtool.report.markdown import code, document, prose, section

_MOST_ROWS = 50


def to_markdown(analysis: Analysis) -> str:
    """The verdict, the faults, the advice, and a table each of regions, blocks and tensors."""
    faults = [f"- ⚠️ {code(t.name)}: {prose(t.problem)}" for t in analysis.problems]
    advice = [f"- {code(a.command)}: {prose(gain_text(a))}. {prose(a.why)}" for a in analysis.advice]
    parts = [
        f"## qtool analyze: {prose(verdict(analysis))}",
        prose(subject(analysis)),
        "\n".join(faults),
        *(["### Advice", "\n".join(advice)] if advice else []),
        section("Regions", REGIONS, analysis.regions, _MOST_ROWS),
        section("Blocks", BLOCKS, analysis.blocks, _MOST_ROWS),
        section("Tensors", TENSORS, analysis.tensors, _MOST_ROWS),
    ]
    return document(parts, analysis.warnings, analysis.version, f", {cost_text(analysis)}")
