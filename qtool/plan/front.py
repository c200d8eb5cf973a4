"""All labels that are best for some trade of time against error: the lower envelope of a network.

Time + lambda * noise of each choice of labels is a line over lambda. Where the lines of two neighbours on
the envelope cross, either another one is below both, or there is none between them: so every one is found
in twice as many cuts as there are (Eisner and Severance, Mathematical techniques for efficient record
segmentation in large shared databases, J. ACM 1976).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from qtool.plan.cut import least
from qtool.plan.network import Network

# Cuts that are made at most: of a model with hundreds of units the envelope has as many points, and no
# use for all of them.
_MOST_CUTS = 48
# 150 dB, which no float32 model reaches: how far from the others a point without any noise is drawn.
_LEAST_NOISE = 1e-15


@dataclass(frozen=True)
class Point:
    """One choice of labels.

    Args:
        int8: the units in int8.
        seconds: what all units and what is between them take.
        noise: of all that is quantized, as a share of the signal.
        weight: a lambda that it is the best for.
    """

    int8: frozenset[str]
    seconds: float
    noise: float
    weight: float


def envelope(network: Network, most: int = _MOST_CUTS) -> list[Point]:
    """The points of the envelope, fastest first.

    Args:
        network: of a model.
        most: cuts; where there would be more, the widest gaps come first.
    """
    first, last = _solved(network, 0.0), _solved(network, _heaviest(network))
    points = [first, last] if first.int8 != last.int8 else [first]
    gaps = [(first, last)] if len(points) > 1 else []
    for _ in range(most):
        if not gaps:
            break
        gaps.sort(key=lambda gap: gap[1].seconds - gap[0].seconds)
        a, b = gaps.pop()
        if not (a.noise > b.noise and b.seconds > a.seconds):
            continue
        found = _solved(network, (b.seconds - a.seconds) / (a.noise - b.noise))
        if found.int8 not in (a.int8, b.int8):
            points.append(found)
            gaps += [(a, found), (found, b)]
    return sorted({p.int8: p for p in points}.values(), key=lambda p: (p.seconds, p.noise))


def between(network: Network, fast: Point, true: Point) -> list[Point]:
    """What lies between two neighbours of the envelope, fastest first: units that only the fast one has in
    int8 go back to float, one after the other, those first that give most accuracy for their time.
    """
    noise = {u: network.noise(u) for u in fast.int8 - true.int8}
    gain = {u: max(network.times[u][0] - network.times[u][1], 1e-12) for u in noise}
    int8, found = fast.int8 | true.int8, []
    for unit in sorted(noise, key=lambda u: (-noise[u] / gain[u], u))[:-1]:
        int8 = int8 - {unit}
        found.append(_point(network, int8, (true.seconds - fast.seconds) / (fast.noise - true.noise)))
    return found


def spread(network: Network, points: Sequence[Point], count: int) -> list[Point]:
    """Points from one end of the front to the other, as far from one another as can be, fastest first.

    Args:
        network: of a model.
        points: the envelope; where it has fewer than asked for, what lies between two of it is taken too.
        count: at most so many, at least 1.
    """
    able = list(points)
    if len(able) < count:
        able += [inner for fast, true in pairwise(points) for inner in between(network, fast, true)]
    able = [p for p in able if not any(_better(other, p) for other in able)]
    places = _places(able)
    chosen: list[int] = [0] if able else []
    while len(chosen) < min(count, len(able)):
        rest = [i for i in range(len(able)) if i not in chosen]
        far = {i: min(math.dist(places[i], places[j]) for j in chosen) for i in rest}
        # Of points as far as each other the envelope's come first.
        best = max(rest, key=lambda i: (far[i], -i))
        if not far[best]:
            break
        chosen.append(best)
    return sorted((able[i] for i in chosen), key=lambda p: (p.seconds, p.noise))


def _better(a: Point, b: Point) -> bool:
    """Whether one is as fast and as true as another, and not the same in both."""
    ours, theirs = (a.seconds, a.noise), (b.seconds, b.noise)
    return ours[0] <= theirs[0] and ours[1] <= theirs[1] and ours != theirs


def _places(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Where points lie in a picture of time against decibels that is as wide as it is high."""
    axes = []
    for values in ([p.seconds for p in points], [math.log(max(p.noise, _LEAST_NOISE)) for p in points]):
        low, high = min(values, default=0.0), max(values, default=0.0)
        axes.append([(v - low) / (high - low) if high > low else 0.0 for v in values])
    return list(zip(*axes, strict=True))


def _solved(network: Network, weight: float) -> Point:
    labels = least(network.energy(weight))
    return _point(network, frozenset(u.name for u in network.units if labels[u.name]), weight)


def _point(network: Network, int8: frozenset[str], weight: float) -> Point:
    return Point(int8, network.seconds(int8), network.noise_of(int8), weight)


def _heaviest(network: Network) -> float:
    """A lambda at which no time is worth any noise."""
    noises = [n for n in network.noises.values() if n > 0]
    seconds = math.fsum(t for pair in network.times.values() for t in pair)
    return 1e3 * seconds / min(noises) if noises else 0.0
