"""An analysis as GitHub's Markdown, for a CI step's summary: the verdict and the advice first."""

from __future__ import annotations

from collections.abc import Sequence

from qtool.report.analysis import Analysis
from qtool.report.analysis_figures import (
    BLOCKS,
    REGIONS,
    TENSORS,
    Columns,
    cost_text,
    gain_text,
    subject,
    verdict,
)
from qtool.report.markdown import code, prose

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
        _table("Regions", REGIONS, analysis.regions),
        _table("Blocks", BLOCKS, analysis.blocks),
        _table("Tensors", TENSORS, analysis.tensors),
        "\n".join(f"- ⚠️ {prose(warning)}" for warning in analysis.warnings),
        f"<sub>qtool {prose(analysis.version)}, {cost_text(analysis)}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(title: str, columns: Columns, rows: Sequence[object]) -> str:
    """A row an object, without columns that are empty."""
    if not rows:
        return ""
    cells = {
        name: [
            (code if index == 0 else prose)(text(row)) if foreign else text(row) for row in rows[:_MOST_ROWS]
        ]
        for index, (name, (text, foreign)) in enumerate(columns.items())
    }
    cells = {name: column for name, column in cells.items() if any(column)}
    lines = [list(cells), ["---"] + ["--:"] * (len(cells) - 1), *zip(*cells.values(), strict=True)]
    more = len(rows) - _MOST_ROWS
    rest = f"\n\nand {more} more" if more > 0 else ""
    return f"### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + rest
