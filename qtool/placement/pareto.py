"""The Pareto front of a network: the assignments that are best for some weight of noise against time.

Seconds + lambda * noise of an assignment is a line over lambda, and the assignments that are best for
some lambda form the lower envelope of all lines. Where the lines of two neighbours on the envelope cross,
either another line is below both, or no line lies between them. So twice as many cuts as there are points
find the whole envelope (Eisner and Severance, Mathematical techniques for efficient record segmentation in
large shared databases, J. ACM 1976).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qtool.placement.network import Network

# The envelope of a model with hundreds of regions has hundreds of points; at most some ten are built.
_MAX_CUTS = 48
# 150 dB, more than any float32 model reaches: noise below it counts as this much in a distance.
_LEAST_NOISE = 1e-15
# Noise that is rounding of zero: the largest lambda does not grow with its inverse.
_NO_NOISE = 1e-30
# A region that saves no time by itself counts as saving this much.
_LEAST_SECONDS = 1e-12


@dataclass(frozen=True)
class ParetoPoint:
    """One assignment.

    Args:
        int8: the regions in int8.
        seconds: of all regions, and of the Q and DQ between them.
        noise: of all that is quantized, as a share of the signal.
        weight: a lambda for which the assignment is best.
    """

    int8: frozenset[str]
    seconds: float
    noise: float
    weight: float


@dataclass(frozen=True)
class Steps:
    """Assignments between two points of the envelope, fastest first.

    Each step moves one more region back to float. The set of regions is built by `point` alone: all sets
    together would take memory quadratic in the regions.

    Args:
        start: the int8 regions before the first step.
        moved: the regions that move back to float, one a step.
        seconds, noise: of each step.
        weight: the lambda at which both points of the envelope cost the same.
    """

    start: frozenset[str]
    moved: tuple[str, ...]
    seconds: tuple[float, ...]
    noise: tuple[float, ...]
    weight: float

    def __len__(self) -> int:
        return len(self.moved)

    def point(self, step: int) -> ParetoPoint:
        """Return the assignment after a step, counted from 0."""
        int8 = self.start.difference(self.moved[: step + 1])
        return ParetoPoint(int8, self.seconds[step], self.noise[step], self.weight)

    def fastest_within(self, noise: float) -> ParetoPoint | None:
        """Return the fastest assignment with at most this noise, or None."""
        able = [step for step, own in enumerate(self.noise) if own <= noise]
        return self.point(min(able, key=self.seconds.__getitem__)) if able else None


def envelope(network: Network, max_cuts: int = _MAX_CUTS) -> list[ParetoPoint]:
    """Return the points of the lower envelope, fastest first.

    Args:
        network: of a model.
        max_cuts: of the points between the first and the last; the widest gaps in time are cut first.
    """
    first, last = _best(network, 0.0), _best(network, _heaviest(network))
    points = {first.int8: first}
    points.setdefault(last.int8, last)
    gaps = [(first.seconds - last.seconds, 0, first, last)] if len(points) > 1 else []
    for number in range(1, max_cuts + 1):
        if not gaps:
            break
        _, _, a, b = heapq.heappop(gaps)
        if not (a.noise > b.noise and b.seconds > a.seconds):
            continue
        point = _best(network, (b.seconds - a.seconds) / (a.noise - b.noise))
        if point.int8 not in (a.int8, b.int8):
            points.setdefault(point.int8, point)
            heapq.heappush(gaps, (a.seconds - point.seconds, 2 * number, a, point))
            heapq.heappush(gaps, (point.seconds - b.seconds, 2 * number + 1, point, b))
    return sorted(points.values(), key=lambda p: (p.seconds, p.noise))


def between(network: Network, fast: ParetoPoint, accurate: ParetoPoint) -> Steps:
    """Return the assignments between two neighbours of the envelope.

    Regions that only the fast point has in int8 move back to float one by one, those with the most noise
    for the time they save first.
    """
    moving = fast.int8 - accurate.int8
    saved = {r: max(network.times[r][0] - network.times[r][1], _LEAST_SECONDS) for r in moving}
    moved = sorted(moving, key=lambda r: (-network.noise(r) / saved[r], r))[:-1]
    start = fast.int8 | accurate.int8
    seconds, noise = network.costs_of_steps(start, moved)
    gap = fast.noise - accurate.noise
    weight = (accurate.seconds - fast.seconds) / gap if gap else 0.0
    return Steps(start, tuple(moved), tuple(seconds.tolist()), tuple(noise.tolist()), weight)


def spread(network: Network, points: Sequence[ParetoPoint], count: int) -> list[ParetoPoint]:
    """Return points that are as far from one another as possible, fastest first.

    The fastest point comes first; each further point is the one farthest from those chosen before it.

    Args:
        network: of a model.
        points: the envelope. If it has fewer points than `count`, assignments between its points are added.
        count: number of points at most, at least 1.
    """
    steps = [between(network, a, b) for a, b in pairwise(points)] if len(points) < count else []
    # (steps, index); the points of the envelope come first, and win between equals.
    sources: list[tuple[Steps | None, int]] = [(None, i) for i in range(len(points))]
    sources += [(some, i) for some in steps for i in range(len(some))]
    seconds = np.array([*(p.seconds for p in points), *(s for some in steps for s in some.seconds)])
    noise = np.array([*(p.noise for p in points), *(n for some in steps for n in some.noise)])
    kept = _not_dominated(seconds, noise)
    if not len(kept):
        return []
    places = np.stack(
        [_scaled(seconds[kept]), _scaled(np.log(np.maximum(noise[kept], _LEAST_NOISE)))], axis=1
    )
    chosen = [0]
    nearest = np.full(len(kept), math.inf)
    while len(chosen) < min(count, len(kept)):
        nearest = np.minimum(nearest, np.hypot(*(places - places[chosen[-1]]).T))
        farthest = int(np.argmax(nearest))
        if not nearest[farthest]:
            break
        chosen.append(farthest)
    result = []
    for number in chosen:
        some, i = sources[int(kept[number])]
        result.append(points[i] if some is None else some.point(i))
    return sorted(result, key=lambda p: (p.seconds, p.noise))


def _not_dominated(seconds: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices of the points that no other point dominates."""
    order = np.lexsort((noise, seconds))
    least, at = math.inf, math.inf
    kept = []
    for i in order.tolist():
        # Points that are equal in both do not dominate each other.
        if noise[i] < least or (noise[i] == least and seconds[i] == at):
            least, at = noise[i], seconds[i]
            kept.append(i)
    return np.array(sorted(kept), np.int64)


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values scaled to 0 .. 1; 0 where all are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


def _best(network: Network, weight: float) -> ParetoPoint:
    int8 = network.minimize(weight)
    return ParetoPoint(int8, network.seconds(int8), network.noise_of(int8), weight)


def _heaviest(network: Network) -> float:
    """Return a lambda at which no saving of time outweighs any noise."""
    noises = [n for n in network.noises.values() if n > 0]
    seconds = math.fsum(t for pair in network.times.values() for t in pair)
    return 1e3 * seconds / max(min(noises), _NO_NOISE) if noises else 0.0
