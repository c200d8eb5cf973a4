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
from qtool.report.markdown import code, prose, section

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
        "\n".join(f"- ⚠️ {prose(warning)}" for warning in analysis.warnings),
        f"<sub>qtool {prose(analysis.version)}, {cost_text(analysis)}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
