"""The cost of an assignment: seconds of the regions, of the Q and DQ between them, and the noise.

A region has label 0 in float and 1 in int8. Regions share costs through further variables:

- `q VALUE`, of a value made in float: 1 if any consumer is in int8. Its Q is paid once for all consumers.
- `d VALUE`, of a value made in int8: 0 if any consumer is in float. Its DQ is paid once for all consumers.
- `e KEY`, of tensors that share a scale: 1 if any region that makes or reads one of them is in int8. Their
  noise is paid once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import View
from qtool.placement.mincut import CutGraph, Energy
from qtool.placement.regions import Region
from qtool.plan.assignment import AssignedGraph
from qtool.plan.eligible import data_inputs
from qtool.plan.model import OBSERVED, WEIGHTS, Kind, Plan, Site
from qtool.plan.predict import Errors, key_of, keys_of

# -90 dB: worse than useless, but finite.
_MOST_NOISE = 1e9


@dataclass(frozen=True)
class RegionCosts:
    """Measured or tabulated costs.

    Args:
        times: region -> seconds in float, seconds in int8.
        quantize, dequantize: value -> seconds of its Q, of its DQ.
        errors: of every tensor that the all-int8 plan or the float plan quantizes.
    """

    times: Mapping[str, tuple[float, float]]
    quantize: Mapping[str, float]
    dequantize: Mapping[str, float]
    errors: Errors

    def noise(self, key: str) -> float:
        """Return the noise of a tensor as a share of the signal: finite, though a signal may be all zeros."""
        return min(self.errors.relative(key), _MOST_NOISE)


@dataclass(frozen=True)
class Network:
    """The costs of every assignment, with time and noise apart, so that their trade can be swept.

    Args:
        regions: the variables that an assignment labels.
        times: variable -> seconds with label 0, with label 1.
        noises: variable -> noise with label 1, as a share of the signal.
        pairs: (a, b, seconds): paid where a is 0 and b is 1; inf forbids that.
        base: noise with all regions in float, of weights that are stored as integers.
        forced: regions that the user wants in int8.
    """

    regions: tuple[Region, ...]
    times: Mapping[str, tuple[float, float]]
    noises: Mapping[str, float]
    pairs: tuple[tuple[str, str, float], ...] = ()
    base: float = 0.0
    forced: frozenset[str] = frozenset()

    def energy(self, weight: float) -> Energy:
        """Return seconds + weight * noise as an energy over all variables."""
        return Energy(
            {
                name: (
                    math.inf if name in self.forced else zero,
                    one + weight * self.noises.get(name, 0.0),
                )
                for name, (zero, one) in self.times.items()
            },
            self.pairs,
        )

    def minimize(self, weight: float) -> frozenset[str]:
        """Return the int8 regions with the least seconds + weight * noise; among equals, the fewest."""
        index = self.index
        labels = index.graph.minimize(index.forced_zero, index.one + weight * index.noise)
        return frozenset(
            region.name
            for region, label in zip(self.regions, labels[: len(self.regions)].tolist(), strict=True)
            if label
        )

    def seconds(self, int8: Collection[str]) -> float:
        """Return the seconds of all regions, and of the Q and DQ between them, with these in int8."""
        index = self.index
        labels = index.labels(self.region_labels(int8))
        paid = labels[index.heads] & ~labels[index.tails]
        own = math.fsum(np.where(labels, index.one, index.zero).tolist())
        return own + math.fsum(index.costs[paid].tolist())

    def noise_of(self, int8: Collection[str]) -> float:
        """Return the noise with these regions in int8, as a share of the signal."""
        index = self.index
        return self.base + math.fsum(index.noise[index.labels(self.region_labels(int8))].tolist())

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

    def region_labels(self, int8: Collection[str]) -> NDArray[np.bool_]:
        """Return bool [regions], True for these."""
        members = int8 if isinstance(int8, (set, frozenset)) else frozenset(int8)
        return np.array([region.name in members for region in self.regions], np.bool_)

    @cached_property
    def index(self) -> Index:
        """The network as arrays, made once."""
        return _indexed(self)


@dataclass(frozen=True)
class Index:
    """A network as arrays, made once. Variables 0 .. len(regions) - 1 are the regions.

    Args:
        zero, one, noise: float64 [variables], the cost of each label, and the noise of label 1.
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

    def labels(self, regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the labels of all variables, bool [variables], from those of the regions.

        Each shared variable has the cheapest label that the regions allow.
        """
        labels = np.zeros(len(self.zero), np.bool_)
        labels[: len(regions)] = regions
        labels[self.any_of[regions[self.any_region]]] = True
        labels[self.all_of] = True
        labels[self.all_of[~regions[self.all_region]]] = False
        return labels


def _indexed(network: Network) -> Index:
    count = len(network.regions)
    names = dict.fromkeys((*(r.name for r in network.regions), *network.times))
    position = {name: number for number, name in enumerate(names)}
    times = np.array([network.times[name] for name in names], np.float64).reshape(-1, 2)
    # Several tensors of one scale repeat a pair.
    pairs = [(position[a], position[b], cost) for a, b, cost in network.pairs]
    tied = list(dict.fromkeys((a, b) for a, b, cost in pairs if math.isinf(cost)))
    any_of = [(a, b) for a, b in tied if b < count <= a]
    all_of = [(a, b) for a, b in tied if a < count <= b]
    paid = [(a, b, cost) for a, b, cost in pairs if 0 < cost < math.inf]
    forced = np.array([name in network.forced for name in names], np.bool_)

    def column(rows: Iterable[int]) -> NDArray[np.int64]:
        return np.fromiter(rows, np.int64)

    every = [*((a, b, math.inf) for a, b in tied), *paid]
    graph = CutGraph(
        len(names),
        column(a for a, _, _ in every),
        column(b for _, b, _ in every),
        np.array([cost for _, _, cost in every], np.float64),
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


def network(
    view: View,
    assigned: AssignedGraph,
    int8_plan: Plan,
    float_plan: Plan,
    regions: tuple[Region, ...],
    costs: RegionCosts,
) -> Network:
    """Return the network of a model.

    Args:
        view: of the prepared graph.
        assigned: the maximal int8 set.
        int8_plan, float_plan: resolved plans with every region in int8, and with none.
        regions: of the maximal int8 set.
        costs: of these regions and of the values between them.
    """
    region_of = {node: region.name for region in regions for node in region.nodes}
    times = {region.name: costs.times.get(region.name, (0.0, 0.0)) for region in regions}
    noises: dict[str, float] = {}
    pairs: list[tuple[str, str, float]] = []
    stored = {use: key_of(s) for s in float_plan.sites if s.kind in WEIGHTS for use in s.uses or ()}
    consumers = _Consumers(assigned, region_of)
    for site in int8_plan.sites:
        if site.kind in WEIGHTS:
            for use in site.uses or ():
                if use[0] in region_of:
                    more = costs.noise(key_of(site)) - costs.noise(stored.get(use, ""))
                    region = region_of[use[0]]
                    noises[region] = noises.get(region, 0.0) + max(more, 0.0)
        elif site.kind in OBSERVED:
            value = view.values[site.value]
            producer = _producer(value, site, assigned, region_of)
            readers, read_in_float = consumers.of(value)
            touching = [*readers, *([producer] if producer else [])]
            error = f"e {key_of(site)}"
            noises[error] = costs.noise(key_of(site))
            times.setdefault(error, (0.0, 0.0))
            pairs += [(error, region, math.inf) for region in touching]
            if site.kind is not Kind.ACTIVATION:
                continue
            if readers:
                quantize = f"q {site.value}"
                seconds = costs.quantize.get(site.value, 0.0)
                times[quantize] = (0.0, 0.0 if producer else seconds)
                pairs += [(quantize, region, math.inf) for region in readers]
                pairs += [(producer, quantize, seconds)] if producer else []
            if producer:
                seconds = costs.dequantize.get(site.value, 0.0)
                if read_in_float:
                    times[producer] = (times[producer][0], times[producer][1] + seconds)
                elif readers:
                    times[f"d {site.value}"] = (0.0, 0.0)
                    pairs += [(region, f"d {site.value}", math.inf) for region in readers]
                    pairs.append((f"d {site.value}", producer, seconds))
    base = math.fsum(costs.noise(key) for key in keys_of(float_plan))
    forced = frozenset(region_of[name] for name in assigned.required if name in region_of)
    return Network(regions, times, noises, tuple(p for p in pairs if p[0] != p[1]), base, forced)


def _producer(value: ir.Value, site: Site, assigned: AssignedGraph, region_of: Mapping[str, str]) -> str:
    """Return the region that can make a value in int8; '' where it is always made in float."""
    producer = value.producer()
    if producer is None or site.kind is not Kind.ACTIVATION or not assigned.quantizes_output(producer):
        return ""
    return region_of.get(producer.name or "", "")


class _Consumers:
    """The regions that can read a value in int8.

    Args:
        assigned: the maximal int8 set.
        region_of: node -> its region.
    """

    def __init__(self, assigned: AssignedGraph, region_of: Mapping[str, str]) -> None:
        self._assigned = assigned
        self._region_of = region_of
        self._int8_inputs: dict[str, frozenset[int]] = {}

    def of(self, value: ir.Value) -> tuple[list[str], bool]:
        """Return these regions, and whether anything reads the value in float in every assignment."""
        readers: dict[str, None] = {}
        read_in_float = value.is_graph_output()
        for use in value.uses():
            if use.idx in self._inputs(use.node):
                readers[self._region_of[use.node.name or ""]] = None
            else:
                read_in_float = True
        return list(readers), read_in_float

    def _inputs(self, node: ir.Node) -> frozenset[int]:
        """Return the inputs that a node can read in int8; found once, for nodes with many inputs."""
        name = node.name or ""
        candidate = self._assigned.chosen.get(name)
        if candidate is None:
            return frozenset()
        if name not in self._int8_inputs:
            inputs = frozenset(index for index, _ in data_inputs(node, candidate.rule))
            self._int8_inputs[name] = inputs
        return self._int8_inputs[name]
