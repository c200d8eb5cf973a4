"""Builds the network of a model: which regions share a Q, a DQ or a scale, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import View
from qtool.placement.network import Network
from qtool.placement.regions import Region
from qtool.plan.assignment import AssignedGraph
from qtool.plan.eligible import data_inputs
from qtool.plan.model import OBSERVED, WEIGHTS, Kind, Plan, Site
from qtool.plan.predict import TensorNoise, key_of, keys_of
from qtool.tables.ops import FAST_BEHIND_INT8

# -90 dB: a useless output, but a finite cost.
_MOST_NOISE = 1e9


@dataclass(frozen=True)
class RegionCosts:
    """The costs of regions and of the values between them, measured or from the table.

    Args:
        times: region -> seconds in float, seconds in int8.
        quantize, dequantize: value -> seconds of its Q, of its DQ.
        errors: of every tensor that the all-int8 plan or the float plan quantizes.
    """

    times: Mapping[str, tuple[float, float]]
    quantize: Mapping[str, float]
    dequantize: Mapping[str, float]
    errors: TensorNoise

    def noise(self, key: str) -> float:
        """Return the noise of a tensor as a share of the signal: finite even for a signal of zeros."""
        return min(self.errors.relative(key), _MOST_NOISE)


def build_network(
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
    pairs += [(a, b, math.inf) for a, b in _needed(assigned, region_of)]
    base = math.fsum(costs.noise(key) for key in keys_of(float_plan))
    forced = frozenset(region_of[name] for name in assigned.required if name in region_of)
    return Network(regions, times, noises, tuple(p for p in pairs if p[0] != p[1]), base, forced)


def _needed(assigned: AssignedGraph, region_of: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of regions: the second is only fast in int8 behind the first in int8."""
    for name, region in region_of.items():
        node = assigned.chosen[name].node
        if node.op_type in FAST_BEHIND_INT8 and name not in assigned.required:
            source = node.inputs[0].producer() if node.inputs[0] is not None else None
            before = region_of.get(source.name or "") if source is not None else None
            if before is not None and before != region:
                yield before, region


def _producer(value: ir.Value, site: Site, assigned: AssignedGraph, region_of: Mapping[str, str]) -> str:
    """Return the region that can produce a value in int8; '' where it is always produced in float."""
    node = value.producer()
    if node is None or site.kind is not Kind.ACTIVATION or not assigned.quantizes_output(node):
        return ""
    return region_of.get(node.name or "", "")


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
        """Return the regions, and whether a node reads the value in float in every assignment."""
        readers: dict[str, None] = {}
        read_in_float = value.is_graph_output()
        for use in value.uses():
            if use.idx in self._inputs(use.node):
                readers[self._region_of[use.node.name or ""]] = None
            else:
                read_in_float = True
        return list(readers), read_in_float

    def _inputs(self, node: ir.Node) -> frozenset[int]:
        """Return the inputs that a node can read in int8; cached for nodes with many inputs."""
        name = node.name or ""
        candidate = self._assigned.chosen.get(name)
        if candidate is None:
            return frozenset()
        if name not in self._int8_inputs:
            inputs = frozenset(index for index, _ in data_inputs(node, candidate.rule))
            self._int8_inputs[name] = inputs
        return self._int8_inputs[name]
