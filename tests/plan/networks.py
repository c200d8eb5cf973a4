"""Small networks of any costs, as plan/network.py makes them: for what must hold of every one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

from hypothesis import strategies as st

from qtool.plan.network import Network
from qtool.plan.units import Unit

_COST = st.integers(0, 20).map(float)


def subsets(network: Network) -> Iterator[frozenset[str]]:
    """All choices of units in int8."""
    free = [u.name for u in network.units if u.name not in network.forced]
    for size in range(len(free) + 1):
        for chosen in combinations(free, size):
            yield network.forced | frozenset(chosen)


@st.composite
def networks(draw: st.DrawFn, most: int = 5) -> Network:
    """Units in a row or with branches, a Q and a DQ between them, errors that some of them share."""
    names = [f"u{i}" for i in range(draw(st.integers(1, most)))]
    units = tuple(Unit(name, (name,)) for name in names)
    times = {name: (draw(_COST), draw(_COST)) for name in names}
    noises = {name: draw(st.integers(0, 8)) / 8 for name in names if draw(st.booleans())}
    pairs: list[tuple[str, str, float]] = []
    for value in range(draw(st.integers(0, most))):
        around = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
        maker, readers = (around[0], around[1:]) if draw(st.booleans()) else ("", around)
        error, seconds = f"e v{value}", draw(_COST)
        times[error], noises[error] = (0.0, 0.0), draw(st.integers(0, 8)) / 8
        pairs += [(error, unit, math.inf) for unit in around]
        if readers:
            times[f"q v{value}"] = (0.0, 0.0 if maker else seconds)
            pairs += [(f"q v{value}", unit, math.inf) for unit in readers]
            pairs += [(maker, f"q v{value}", seconds)] if maker else []
        if maker and readers:
            times[f"d v{value}"] = (0.0, 0.0)
            pairs += [(unit, f"d v{value}", math.inf) for unit in readers]
            pairs.append((f"d v{value}", maker, seconds))
    forced = frozenset(draw(st.lists(st.sampled_from(names), max_size=1)))
    return Network(units, times, noises, tuple(pairs), draw(st.integers(0, 2)) / 8, forced)
