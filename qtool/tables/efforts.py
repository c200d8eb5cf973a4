"""The levels of --effort: counts of samples and steps, not seconds, so every machine does the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Effort:
    """A row of --effort.

    Args:
        measures: whether placement measures this model; else it goes by the rules.
        built: the count of cuts, best predicted first, that are built and run.
        judged: the most samples that a candidate is judged on; the verdict uses all.
        rounds: the most rounds of recovery, while they help.
        inferences: the most inferences of the whole model, of any form, that choices may cost for each select
            sample; None: any number. Timing and work on single layers are not counted.
    """

    name: str
    summary: str
    measures: bool = True
    built: int = 3
    judged: int = 32
    rounds: int = 1
    inferences: int | None = 60


EFFORTS: dict[str, Effort] = {
    e.name: e
    for e in (
        Effort("fast", "placement by the rules, no recovery", measures=False, rounds=0),
        Effort("balanced", "seconds, or a few minutes for a transformer"),
        Effort(
            "best",
            "more candidates on more samples, while they help",
            built=8,
            judged=128,
            rounds=4,
            inferences=None,
        ),
    )
}
BALANCED: Final = "balanced"
BEST: Final = "best"
