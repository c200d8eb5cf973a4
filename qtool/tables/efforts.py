"""How much is tried for a better result: counts of samples and steps, so that any machine tries the same."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """A row of --effort.

    Args:
        measures: placement is by what was measured of this model, not by the rules alone.
        built: how many of the cuts that were predicted to be best are built and run.
        judged: the most samples that a candidate is judged on; the answer is judged on all there are.
        rounds: how often the steps of recovery may be gone through, while they pay.
    """

    name: str
    summary: str
    measures: bool = True
    built: int = 3
    judged: int = 32
    rounds: int = 1


EFFORTS: dict[str, Effort] = {
    e.name: e
    for e in (
        Effort("fast", "the rules alone, and nothing is recovered", measures=False, rounds=0),
        Effort("balanced", "some seconds, to some minutes for a transformer"),
        Effort("best", "more candidates on more samples, as long as it pays", built=8, judged=128, rounds=4),
    )
}
BALANCED, BEST = "balanced", "best"
