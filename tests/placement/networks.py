"""Small networks of random costs, and energies over their variables as an oracle."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from hypothesis import strategies as st

from qtool.placement.mincut import CutGraph
from qtool.placement.network import Network
from qtool.placement.regions import Region


@dataclass(frozen=True)
class Energy:
    """The cost of labels.

    Args:
        costs: variable -> its cost with label 0, with label 1; neither is negative, inf forbids a label.
        pairs: (a, b, cost): paid where a has label 0 and b has label 1; inf forbids that.
    """

    costs: Mapping[str, tuple[float, float]]
    pairs: Sequence[tuple[str, str, float]] = field(default_factory=tuple)

    def of(self, labels: Mapping[str, bool]) -> float:
        """Return the energy of one choice of labels."""
        own = math.fsum(costs[labels[name]] for name, costs in self.costs.items())
        return own + math.fsum(c for a, b, c in self.pairs if c and labels[b] and not labels[a])


def minimize(energy: Energy) -> dict[str, bool]:
    """Return the labels of least energy; among equal minima, the one with the fewest 1s.

    Some choice of labels must have a finite energy. Costs are rounded as in `CutGraph.minimize`.
    """
    position = {name: index for index, name in enumerate(energy.costs)}
    graph = CutGraph(
        len(position),
        np.array([position[a] for a, _, _ in energy.pairs], np.int64),
        np.array([position[b] for _, b, _ in energy.pairs], np.int64),
        np.array([cost for _, _, cost in energy.pairs], np.float64),
    )
    costs = np.array(list(energy.costs.values()), np.float64).reshape(-1, 2)
    labels = graph.minimize(costs[:, 0], costs[:, 1])
    return dict(zip(energy.costs, labels.tolist(), strict=True))


def energy_of(network: Network, weight: float) -> Energy:
    """Seconds + weight * noise of a network, as an energy over all its variables."""
    costs = {
        name: (math.inf if name in network.forced else zero, one + weight * network.noises.get(name, 0.0))
        for name, (zero, one) in network.times.items()
    }
    return Energy(costs, network.pairs)


_COST = st.integers(0, 20).map(float)


def subsets(network: Network) -> Iterator[frozenset[str]]:
    """All choices of regions in int8."""
    free = [u.name for u in network.regions if u.name not in network.forced]
    for size in range(len(free) + 1):
        for chosen in combinations(free, size):
            yield network.forced | frozenset(chosen)


@st.composite
def networks(draw: st.DrawFn, most: int = 5) -> Network:
    """Regions in a row or with branches, a Q and a DQ between them, errors that some of them share."""
    names = [f"u{i}" for i in range(draw(st.integers(1, most)))]
    regions = tuple(Region(name, (name,)) for name in names)
    times = {name: (draw(_COST), draw(_COST)) for name in names}
    noises = {name: draw(st.integers(0, 8)) / 8 for name in names if draw(st.booleans())}
    pairs: list[tuple[str, str, float]] = []
    for value in range(draw(st.integers(0, most))):
        around = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        producer, readers = (around[0], around[1:]) if draw(st.booleans()) else ("", around)
        error, seconds = f"e v{value}", draw(_COST)
        times[error], noises[error] = (0.0, 0.0), draw(st.integers(0, 8)) / 8
        pairs += [(error, region, math.inf) for region in around]
        if readers:
            times[f"q v{value}"] = (0.0, 0.0 if producer else seconds)
            pairs += [(f"q v{value}", region, math.inf) for region in readers]
            pairs += [(producer, f"q v{value}", seconds)] if producer else []
        if producer and readers:
            times[f"d v{value}"] = (0.0, 0.0)
            pairs += [(region, f"d v{value}", math.inf) for region in readers]
            pairs.append((f"d v{value}", producer, seconds))
    forced = frozenset(draw(st.lists(st.sampled_from(names), max_size=1)))
    return Network(regions, times, noises, tuple(pairs), draw(st.integers(0, 2)) / 8, forced)


def chain(count: int, seed: int) -> Network:
    """Regions in a row with random costs, a Q and a DQ between neighbours, and skips over two regions."""
    rng = np.random.default_rng(seed)
    names = [f"u{i}" for i in range(count)]
    times = {name: (float(rng.uniform(2, 9)), float(rng.uniform(1, 6))) for name in names}
    noises = {name: float(10 ** rng.uniform(-7, -3)) for name in names}
    pairs: list[tuple[str, str, float]] = []
    for i, producer in enumerate(names[:-1]):
        value, readers = f"v{i}", names[i + 1 : i + 2 + (i % 3 == 0)]
        times |= {f"e {value}": (0.0, 0.0), f"q {value}": (0.0, 0.0), f"d {value}": (0.0, 0.0)}
        noises[f"e {value}"] = float(10 ** rng.uniform(-7, -3))
        pairs += [(f"e {value}", region, math.inf) for region in (producer, *readers)]
        for region in readers:
            pairs += [(f"q {value}", region, math.inf), (region, f"d {value}", math.inf)]
        pairs += [(producer, f"q {value}", float(rng.uniform(0, 2)))]
        pairs += [(f"d {value}", producer, float(rng.uniform(0, 2)))]
    regions = tuple(Region(name, (name,)) for name in names)
    return Network(regions, times, noises, tuple(pairs), 1e-6)
