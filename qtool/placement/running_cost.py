"""The cost of an assignment that changes one region at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping

from qtool.placement.network import Network

# Costs become integers of 2**-200: running sums of these are exact, in whatever order regions change.
_FRACTION_BITS = 200


class RunningCost:
    """The seconds and noise of an assignment while regions go back to float, one after the other.

    A step costs time in proportion to the variables around its region, not to the network.

    Args:
        network: of a model.
        int8: the regions in int8 at first.
    """

    def __init__(self, network: Network, int8: Collection[str]) -> None:
        index = network.index
        self._position = {region.name: number for number, region in enumerate(network.regions)}
        self._labels = index.labels(network.region_labels(int8)).tolist()
        self._zero, self._one = index.zero.tolist(), index.one.tolist()
        self._noise_of = index.noise.tolist()
        self._pairs = list(zip(index.tails.tolist(), index.heads.tolist(), index.costs.tolist(), strict=True))
        self._pairs_of: defaultdict[int, list[int]] = defaultdict(list)
        for number, (a, b, _) in enumerate(self._pairs):
            self._pairs_of[a].append(number)
            self._pairs_of[b].append(number)
        self._any_of: defaultdict[int, list[int]] = defaultdict(list)
        self._int8_regions: defaultdict[int, int] = defaultdict(int)
        for variable, region in zip(index.any_of.tolist(), index.any_region.tolist(), strict=True):
            self._any_of[region].append(variable)
            self._int8_regions[variable] += self._labels[region]
        self._all_of: defaultdict[int, list[int]] = defaultdict(list)
        for variable, region in zip(index.all_of.tolist(), index.all_region.tolist(), strict=True):
            self._all_of[region].append(variable)
        labels = self._labels
        own = (one if label else zero for zero, one, label in zip(self._zero, self._one, labels, strict=True))
        paid = (cost for a, b, cost in self._pairs if labels[b] and not labels[a])
        noises = (noise for noise, label in zip(self._noise_of, labels, strict=True) if label)
        self._seconds = sum(map(_exact, own)) + sum(map(_exact, paid))
        self._noise = _exact(network.base) + sum(map(_exact, noises))

    @property
    def seconds(self) -> float:
        """Seconds of the current assignment."""
        return _rounded(self._seconds)

    @property
    def noise(self) -> float:
        """Noise of the current assignment, as a share of the signal."""
        return _rounded(self._noise)

    def seconds_saved(self, region: str) -> float:
        """Return the seconds that an int8 region saves against the same assignment with it in float."""
        return _rounded(self._difference(self._changed(self._position[region]))[0])

    def to_float(self, region: str) -> None:
        """Move an int8 region back to float."""
        number = self._position[region]
        changed = self._changed(number)
        seconds, noise = self._difference(changed)
        self._seconds += seconds
        self._noise += noise
        for variable in changed:
            self._labels[variable] = False
        for variable in self._any_of[number]:
            self._int8_regions[variable] -= 1

    def _changed(self, region: int) -> dict[int, None]:
        """Return the variables that change from 1 to 0 when an int8 region goes back to float."""
        last = (v for v in self._any_of[region] if self._int8_regions[v] == 1)
        return dict.fromkeys((region, *last, *(v for v in self._all_of[region] if self._labels[v])))

    def _difference(self, changed: Mapping[int, None]) -> tuple[int, int]:
        """Return what is added to the seconds and to the noise when these variables become 0."""
        labels = self._labels
        seconds = sum(_exact(self._zero[v]) - _exact(self._one[v]) for v in changed)
        noise = -sum(_exact(self._noise_of[v]) for v in changed)
        for number in dict.fromkeys(pair for v in changed for pair in self._pairs_of[v]):
            a, b, cost = self._pairs[number]
            paid = labels[b] and not labels[a]
            to_pay = labels[b] and b not in changed and (not labels[a] or a in changed)
            seconds += (to_pay - paid) * _exact(cost)
        return seconds, noise


def _exact(cost: float) -> int:
    return round(math.ldexp(cost, _FRACTION_BITS))


def _rounded(cost: int) -> float:
    return cost / (1 << _FRACTION_BITS)
