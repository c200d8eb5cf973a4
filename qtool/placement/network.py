"""The cost of an assignment: seconds of the regions, of the Q and DQ between them, and the noise.

A region is a variable that is 0 in float and 1 in int8. Regions share costs through further variables:

- `q VALUE`, of a value produced in float: 1 if any consumer is in int8. Its Q is paid once for all of them.
- `d VALUE`, of a value produced in int8: 0 if any consumer is in float. Its DQ is paid once for all of them.
- `e KEY`, of tensors that share a scale: 1 if any region that produces or reads one of them is in int8.
  Their noise is paid once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.metrics import sqnr_db
from qtool.placement.mincut import CutGraph
from qtool.placement.regions import Region
from qtool.plan.model import Plan


@dataclass(frozen=True)
class Network:
    """The costs of every assignment: seconds and noise, kept apart to find the Pareto front of both.

    Args:
        regions: the variables that an assignment sets.
        times: variable -> seconds when 0, when 1.
        noises: variable -> noise when 1, as a share of the signal.
        pairs: (a, b, seconds): paid where a is 0 and b is 1; inf forbids that.
        base: noise with all regions in float, of weights that are stored as integers.
        forced: regions that the user requires in int8.
    """

    regions: tuple[Region, ...]
    times: Mapping[str, tuple[float, float]]
    noises: Mapping[str, float]
    pairs: tuple[tuple[str, str, float], ...] = ()
    base: float = 0.0
    forced: frozenset[str] = frozenset()

    def minimize(self, weight: float) -> frozenset[str]:
        """Return the int8 regions with the least seconds + weight * noise; among equals, the fewest."""
        index = self.index
        values = index.graph.minimize(index.forced_zero, index.one + weight * index.noise)
        of_regions = values[: len(self.regions)].tolist()
        return frozenset(r.name for r, is_int8 in zip(self.regions, of_regions, strict=True) if is_int8)

    def seconds(self, int8: Collection[str]) -> float:
        """Return the seconds of all regions, and of the Q and DQ between them, with these in int8."""
        index = self.index
        values = index.values(self.region_values(int8))
        paid = values[index.heads] & ~values[index.tails]
        own = math.fsum(np.where(values, index.one, index.zero).tolist())
        return own + math.fsum(index.costs[paid].tolist())

    def noise_of(self, int8: Collection[str]) -> float:
        """Return the noise with these regions in int8, as a share of the signal."""
        index = self.index
        return self.base + math.fsum(index.noise[index.values(self.region_values(int8))].tolist())

    def costs_of_steps(
        self, int8: Collection[str], moved: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the seconds and the noise while regions move back to float, one after the other.

        Args:
            int8: the regions in int8 at first.
            moved: some of them, in their order.

        Returns:
            float64 [steps] each, after every step.
        """
        index, count = self.index, len(moved)
        step_of = {name: step for step, name in enumerate(moved)}
        # The step after which a variable is 0; -1: always, `count`: never.
        regions = [step_of.get(r.name, count if r.name in int8 else -1) for r in self.regions]
        steps = np.full(len(index.zero), -1)
        steps[: len(regions)] = regions
        np.maximum.at(steps, index.any_of, steps[index.any_region])
        steps[index.all_of] = count
        np.minimum.at(steps, index.all_of, steps[index.all_region])

        def sums(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(steps + 1, weights, count + 2).astype(np.float64)

        def of_ones(weights: NDArray[np.float64]) -> NDArray[np.float64]:
            """Sums from the last step on: no large term is subtracted, which would drown small ones."""
            return np.cumsum(sums(weights)[::-1])[::-1][2:]

        a, b = steps[index.tails], steps[index.heads]
        paid = a < b
        change = np.zeros(count + 1)
        np.add.at(change, np.maximum(a[paid], 0), index.costs[paid])
        np.subtract.at(change, b[paid], index.costs[paid])
        of_zeros = np.cumsum(sums(index.zero))[1:-1]
        seconds = of_zeros + of_ones(index.one) + np.cumsum(change)[:count]
        return seconds, self.base + of_ones(index.noise)

    def noise(self, region: str) -> float:
        """Return the noise that a region adds if no other region is in int8, as a share of the signal."""
        return self._isolated_noise[region]

    @cached_property
    def _isolated_noise(self) -> dict[str, float]:
        index = self.index
        shared = defaultdict(list)
        for a, region in zip(index.any_of.tolist(), index.any_region.tolist(), strict=True):
            shared[region].append(float(index.noise[a]))
        return {
            region.name: self.noises.get(region.name, 0.0) + math.fsum(shared[position])
            for position, region in enumerate(self.regions)
        }

    def int8_regions(self, plan: Plan) -> frozenset[str]:
        """Return the regions that a plan has in int8."""
        return frozenset(r.name for r in self.regions if any(name in plan.forms for name in r.nodes))

    def region_values(self, int8: Collection[str]) -> NDArray[np.bool_]:
        """Return bool [regions], True for these."""
        members = int8 if isinstance(int8, (set, frozenset)) else frozenset(int8)
        return np.array([region.name in members for region in self.regions], np.bool_)

    @cached_property
    def index(self) -> Index:
        """The network as arrays."""
        return _indexed(self)


@dataclass(frozen=True)
class Index:
    """A network as arrays. Variables 0 .. len(regions) - 1 are the regions.

    Args:
        zero, one, noise: float64 [variables], seconds when 0, seconds and noise when 1.
        forced_zero: `zero`, with inf for forced regions.
        tails, heads, costs: [pairs] of finite cost.
        any_of, any_region: variable any_of[i] is 1 if any of its regions any_region[i] is.
        all_of, all_region: variable all_of[i] is 0 if any of its regions all_region[i] is.
        graph: for minimum cuts.
    """

    zero: NDArray[np.float64]
    one: NDArray[np.float64]
    noise: NDArray[np.float64]
    forced_zero: NDArray[np.float64]
    tails: NDArray[np.int64]
    heads: NDArray[np.int64]
    costs: NDArray[np.float64]
    any_of: NDArray[np.int64]
    any_region: NDArray[np.int64]
    all_of: NDArray[np.int64]
    all_region: NDArray[np.int64]
    graph: CutGraph

    def values(self, regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the values of all variables, bool [variables], from those of the regions.

        Each shared variable has the cheapest value that the regions allow.
        """
        values = np.zeros(len(self.zero), np.bool_)
        values[: len(regions)] = regions
        values[self.any_of[regions[self.any_region]]] = True
        values[self.all_of] = True
        values[self.all_of[~regions[self.all_region]]] = False
        return values


def _indexed(network: Network) -> Index:
    count = len(network.regions)
    names = dict.fromkeys((*(r.name for r in network.regions), *network.times))
    position = {name: number for number, name in enumerate(names)}
    times = np.array([network.times[name] for name in names], np.float64).reshape(-1, 2)
    # Several tensors that share a scale repeat a pair.
    pairs = [(position[a], position[b], cost) for a, b, cost in network.pairs]
    tied = list(dict.fromkeys((a, b) for a, b, cost in pairs if math.isinf(cost)))
    any_of = [(a, b) for a, b in tied if b < count <= a]
    all_of = [(a, b) for a, b in tied if a < count <= b]
    paid = [(a, b, cost) for a, b, cost in pairs if 0 < cost < math.inf]
    forced = np.array([name in network.forced for name in names], np.bool_)

    def column(rows: Iterable[int]) -> NDArray[np.int64]:
        return np.fromiter(rows, np.int64)

    arcs = [*((a, b, math.inf) for a, b in tied), *paid]
    graph = CutGraph(
        len(names),
        column(a for a, _, _ in arcs),
        column(b for _, b, _ in arcs),
        np.array([cost for _, _, cost in arcs], np.float64),
    )
    return Index(
        zero=times[:, 0],
        one=times[:, 1],
        noise=np.array([network.noises.get(name, 0.0) for name in names], np.float64),
        forced_zero=np.where(forced, math.inf, times[:, 0]),
        tails=column(a for a, _, _ in paid),
        heads=column(b for _, b, _ in paid),
        costs=np.array([cost for _, _, cost in paid], np.float64),
        any_of=column(a for a, _ in any_of),
        any_region=column(b for _, b in any_of),
        all_of=column(b for _, b in all_of),
        all_region=column(a for a, _ in all_of),
        graph=graph,
    )


def noise_db(noise: float) -> float:
    """Return the SQNR in dB of a noise that is given as a share of the signal."""
    return sqnr_db(1.0, noise)
