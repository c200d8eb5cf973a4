"""Labels as an energy: the time of units, the Q and DQ between them, and lambda times the error.

A unit is 0 in float and 1 in int8. Beside the units there is a variable for each thing that several
of them share:

- `q` of a value made in float: 1 where any reader is in int8. The Q is paid once, however many read it.
- `d` of a value made in int8: 0 where any reader is in float. So is the DQ.
- `e` of what shares a scale: 1 where any unit makes or reads it in int8. So is its error.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import View
from qtool.plan.cut import Energy
from qtool.plan.eligible import data_inputs
from qtool.plan.model import OBSERVED, WEIGHTS, Kind, Plan, Site
from qtool.plan.placed import Placed
from qtool.plan.predict import Errors, key_of, keys_of
from qtool.plan.units import Unit


@dataclass(frozen=True)
class Prices:
    """What was measured, or looked up.

    Args:
        units: unit -> seconds in float, seconds in int8.
        quantize, dequantize: value -> seconds of a Q of it, of a DQ.
        errors: of everything that the widest plan and that of all nodes in float quantize.
    """

    units: Mapping[str, tuple[float, float]]
    quantize: Mapping[str, float]
    dequantize: Mapping[str, float]
    errors: Errors


@dataclass(frozen=True)
class Network:
    """All that labels cost, apart for time and for error, so that lambda can be swept.

    Args:
        units: the variables that are labels.
        times, noises: variable -> cost with 0, with 1: seconds, and noise as a share of the signal.
        pairs: (a, b, seconds): paid where a is 0 and b is 1; seconds may be inf.
        base: the noise that is there with all units in float: of weights that are stored as integers.
        forced: units that are in int8 whatever it costs.
    """

    units: tuple[Unit, ...]
    times: Mapping[str, tuple[float, float]]
    noises: Mapping[str, float]
    pairs: tuple[tuple[str, str, float], ...] = ()
    base: float = 0.0
    forced: frozenset[str] = frozenset()

    def energy(self, weight: float) -> Energy:
        """Seconds + weight * noise."""
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

    def seconds(self, int8: Collection[str]) -> float:
        """What the units, and all that is between them, take where these units are in int8."""
        return Energy(self.times, self.pairs).of(self._labels(int8))

    def noise_of(self, int8: Collection[str]) -> float:
        """All noise where these units are in int8, as a share of the signal."""
        labels = self._labels(int8)
        return self.base + math.fsum(noise for name, noise in self.noises.items() if labels[name])

    def _labels(self, int8: Collection[str]) -> dict[str, bool]:
        """The labels of all variables that follow from the units': each as cheap as what is forbidden lets it
        be. A `q` or `e` must be 1 where one of its units is; a `d` may be 1 where all of its are.
        """
        labels = {u.name: u.name in int8 for u in self.units}
        after: dict[str, list[bool]] = {}
        before: dict[str, list[bool]] = {}
        for a, b, cost in self.pairs:
            if math.isinf(cost):
                if b in labels:
                    after.setdefault(a, []).append(labels[b])
                else:
                    before.setdefault(b, []).append(labels[a])
        found = {
            name: any(after[name]) if name in after else all(before.get(name, [])) for name in self.times
        }
        return found | labels

    def noise(self, unit: str) -> float:
        """All noise that comes with a unit in int8, as a share of the signal, if no other unit is."""
        shared = (self.noises.get(a, 0.0) for a, b, cost in self.pairs if b == unit and math.isinf(cost))
        return self.noises.get(unit, 0.0) + math.fsum(shared)


@dataclass(frozen=True)
class Ends:
    """The two ends of what labels can be: resolved plans with everything in int8, and everything in float."""

    int8: Plan
    floats: Plan


def network(view: View, widest: Placed, ends: Ends, units: tuple[Unit, ...], prices: Prices) -> Network:
    """The network of a model.

    Args:
        view: of the prepared graph.
        widest: everything that could be quantized.
        ends: plans of the same model.
        units: of all of it.
        prices: of these units and the values between them.
    """
    unit_of = {node: unit.name for unit in units for node in unit.nodes}
    times = {unit.name: prices.units.get(unit.name, (0.0, 0.0)) for unit in units}
    noises: dict[str, float] = {}
    pairs: list[tuple[str, str, float]] = []
    stored = {use: key_of(s) for s in ends.floats.sites if s.kind in WEIGHTS for use in s.uses or ()}
    for site in ends.int8.sites:
        if site.kind in WEIGHTS:
            for use in site.uses or ():
                if use[0] in unit_of:
                    more = prices.errors.relative(key_of(site)) - prices.errors.relative(stored.get(use, ""))
                    unit = unit_of[use[0]]
                    noises[unit] = noises.get(unit, 0.0) + max(more, 0.0)
        elif site.kind in OBSERVED:
            value = view.values[site.value]
            maker, readers, floats = _around(value, site, widest, unit_of)
            touching = [*readers, *([maker] if maker else [])]
            error = f"e {key_of(site)}"
            noises[error] = prices.errors.relative(key_of(site))
            times.setdefault(error, (0.0, 0.0))
            pairs += [(error, unit, math.inf) for unit in touching]
            if site.kind is not Kind.ACTIVATION:
                continue
            if readers:
                quantize = f"q {site.value}"
                seconds = prices.quantize.get(site.value, 0.0)
                times[quantize] = (0.0, 0.0 if maker else seconds)
                pairs += [(quantize, unit, math.inf) for unit in readers]
                pairs += [(maker, quantize, seconds)] if maker else []
            if maker:
                seconds = prices.dequantize.get(site.value, 0.0)
                if floats:
                    times[maker] = (times[maker][0], times[maker][1] + seconds)
                elif readers:
                    times[f"d {site.value}"] = (0.0, 0.0)
                    pairs += [(unit, f"d {site.value}", math.inf) for unit in readers]
                    pairs.append((f"d {site.value}", maker, seconds))
    base = math.fsum(prices.errors.relative(key) for key in keys_of(ends.floats))
    forced = frozenset(unit_of[name] for name in widest.wishes.force if name in unit_of)
    return Network(units, times, noises, tuple(p for p in pairs if p[0] != p[1]), base, forced)


def _around(
    value: ir.Value, site: Site, widest: Placed, unit_of: Mapping[str, str]
) -> tuple[str, list[str], bool]:
    """Of a value: the unit that makes it in int8 ('' where it is made in float in any case), the units that
    may read it in int8, and whether somebody reads it in float in any case.
    """
    producer = value.producer()
    maker = ""
    if producer is not None and widest.quantizes_output(producer) and site.kind is Kind.ACTIVATION:
        maker = unit_of.get(producer.name or "", "")
    readers: dict[str, None] = {}
    floats = value.is_graph_output()
    for use in value.uses():
        candidate = widest.chosen.get(use.node.name or "")
        takes = candidate is not None and any(
            index == use.idx for index, _ in data_inputs(use.node, candidate.rule)
        )
        if takes:
            readers[unit_of[use.node.name or ""]] = None
        else:
            floats = True
    return maker, list(readers), floats
