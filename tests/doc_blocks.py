"""The blocks of code in the documentation, and which of them can be run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.graphs import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "sample_models" / "README.md"])

_FENCE = re.compile(
    r"(?:^<!-- not run here: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        reason: why it is not run here; '' where it is.
    """

    language: str
    text: str
    line: int
    reason: str


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    source = page.read_text(encoding="utf-8")
    return [
        Block(m["language"], m["text"], source.count("\n", 0, m.start("text")) + 1, m["reason"] or "")
        for m in _FENCE.finditer(source)
    ]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))
