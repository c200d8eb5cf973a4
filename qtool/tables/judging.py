"""Facts of judging: the choices of --gate, and the tasks whose decisions a result must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

NONE: Final = "none"
TASK: Final = "task"  # the decisions of outputs that are scored by argmax are kept
USUAL: Final = "usual"  # the same, and the usual SQNR, where there are samples to judge by
AUTO: Final = "auto"  # always: without samples it fails

CLASSIFY, TOKENS, CTC = "classify", "tokens", "ctc"
TaskName = Literal["", "classify", "tokens", "ctc"]


@dataclass(frozen=True)
class Task:
    """A kind of decision by argmax, and how much of it quantization may change.

    Args:
        summary: the unit of decision, for the help.
        metric: a row of METRICS in evaluate/gates.py, the share of decisions that are unchanged.
        least: its bound. A default gate fails only where the whole 95% interval lies below it.
        unit: the name of several decisions, in messages.
    """

    summary: str
    metric: str
    least: float
    unit: str


# An OCR recognizer of 20 dB changed 12.5% of its texts (shared/FRONTIER.md, 2026-11-30).
TASKS: dict[str, Task] = {
    CLASSIFY: Task("each position has a class of its own", "top1", 0.97, "classes"),
    TOKENS: Task("the classes of all positions are one sequence", "sequences", 0.99, "sequences"),
    CTC: Task("the same, after collapsing repeats and dropping blanks", "sequences", 0.99, "sequences"),
}
MOST_ACCURACY_DROP = 0.005
"""With labels: the most accuracy that classes may lose, in place of their agreement."""
LEAST_AGREEMENT = 0.9
"""The least share of rows (boxes of a detector, ..) that both models have, where data decides their number.

A default gate fails only where the whole 95% interval lies below it. Scores near a threshold fall to either
side of it: of the boxes of a detector, int8 keeps 0.91 to 0.99 (shared/FRONTIER.md, 2026-11-30).
"""
