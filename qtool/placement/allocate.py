"""Allocate bits to weights within a number of bytes: first where a byte buys most accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qtool.tables.qtypes import QType


@dataclass(frozen=True)
class Level:
    """One way to keep a weight: its type, its bytes in the file with scales, its noise at the outputs."""

    qtype: QType
    bytes: int
    noise: float


def allocate(levels: Mapping[str, Sequence[Level]], most: int) -> dict[str, QType]:
    """Return the types with the least noise within a number of bytes.

    Every weight starts at its smallest; steps up are taken in the order of the noise that they save for a
    byte, as long as they fit. Steps that save less for a byte than a later one are taken together with it,
    so the choice is on the lower convex hull: the best there is, but for the last bytes.

    Args:
        levels: weight -> its levels, at least one, in any order.
        most: bytes of all of them.
    """
    hulls = {name: _hull(found) for name, found in levels.items()}
    chosen = {name: hull[0] for name, hull in hulls.items()}
    left = most - sum(level.bytes for level in chosen.values())
    steps = [
        ((low.noise - high.noise) / (high.bytes - low.bytes), name, high)
        for name, hull in hulls.items()
        for low, high in pairwise(hull)
    ]
    stuck: set[str] = set()
    for _, name, high in sorted(steps, key=lambda step: (-step[0], step[1])):
        needed = high.bytes - chosen[name].bytes
        if needed <= 0:  # of two steps on one line rounding may put the second first
            continue
        if name in stuck or needed > left:
            stuck.add(name)  # its steps build on one another
            continue
        chosen[name], left = high, left - needed
    return {name: level.qtype for name, level in chosen.items()}


def _hull(levels: Sequence[Level]) -> list[Level]:
    """The levels on the lower convex hull of noise over bytes, smallest first."""
    hull: list[Level] = []
    for level in sorted(levels, key=lambda found: (found.bytes, found.noise)):
        if hull and level.noise >= hull[-1].noise:
            continue
        while len(hull) > 1 and _rate(hull[-2], level) > _rate(hull[-2], hull[-1]):
            hull.pop()
        hull.append(level)
    return hull


def _rate(low: Level, high: Level) -> float:
    """Noise that a byte saves."""
    return (low.noise - high.noise) / max(high.bytes - low.bytes, 1)
