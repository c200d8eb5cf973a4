"""Bit allocation: the types of all weights with the least noise at the outputs within a number of bytes.

The noise is measured where there are samples, else assumed by a rule of thumb (plan/sensitive_layers.py). The
bytes are those of --target-size or --target-bits, else those that the rule of thumb takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qtool.errors import UsageError
from qtool.evaluate.evaluator import Evaluator
from qtool.graph.save import LARGE_BYTES, tensor_bytes
from qtool.graph.view import View
from qtool.numerics.qparams import scale_shape
from qtool.plan.assignment import Assignment
from qtool.plan.candidate import Candidate
from qtool.plan.model import WEIGHTS, Kind, Plan, Site
from qtool.plan.predict import key_of
from qtool.plan.sensitive_layers import sensitive_types
from qtool.rewrite.writer import float_array
from qtool.tables.forms import Form
from qtool.tables.modes import FEW_BITS
from qtool.tables.qtypes import FLOAT32, QType

_SCALE_BYTES = 4
# The part of the budget for the noise of all weights in all types.
_PART = 0.6
# Where nothing is measured: the noise of an element of a sensitive layer, as a multiple of that of others.
_SENSITIVE = 16


@dataclass(frozen=True)
class Level:
    """A type of a weight: with the bytes in the file, scales included, and the noise at the outputs."""

    qtype: QType
    bytes: int
    noise: float


Noise = Callable[[Site, int], float]
"""Returns the noise at the outputs of a weight of that many elements, quantized alone."""


def allocate(levels: Mapping[str, Sequence[Level]], most: int) -> dict[str, QType]:
    """Return the types with the least noise within a number of bytes.

    Every weight starts at its smallest level. Steps to larger ones are taken in the order of noise saved per
    byte, as long as they fit. A step that saves less per byte than a later one is taken together with it, so
    the choice lies on the lower convex hull: optimal but for the last bytes.

    Args:
        levels: weight -> its levels, at least one, in any order.
        most: bytes of all weights.
    """
    hulls = {name: _hull(own) for name, own in levels.items()}
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
        if needed <= 0:  # rounding may swap two steps of equal rate
            continue
        if name in stuck or needed > left:
            stuck.add(name)  # its later steps start from this one
            continue
        chosen[name], left = high, left - needed
    return {name: level.qtype for name, level in chosen.items()}


def _hull(levels: Sequence[Level]) -> list[Level]:
    """The levels on the lower convex hull of noise over bytes, smallest first."""
    hull: list[Level] = []
    for level in sorted(levels, key=lambda own: (own.bytes, own.noise)):
        if hull and level.noise >= hull[-1].noise:
            continue
        while len(hull) > 1 and _rate(hull[-2], level) > _rate(hull[-2], hull[-1]):
            hull.pop()
        hull.append(level)
    return hull


def _rate(low: Level, high: Level) -> float:
    """Noise that a byte saves."""
    return (low.noise - high.noise) / max(high.bytes - low.bytes, 1)


@dataclass(frozen=True)
class WeightLevels:
    """The weights of a model, and the types that each can be stored in.

    Args:
        fewest: the candidate with all weights in --bits, the fewest.
        nodes: weight -> its nodes, without those whose type the user set.
        levels: weight -> its types, their bytes and their noise.
        elements: of all weights.
    """

    fewest: Candidate
    nodes: Mapping[str, Sequence[str]]
    levels: Mapping[str, Sequence[Level]]
    elements: int

    @property
    def least(self) -> int:
        """The bytes of all weights at their smallest."""
        return sum(min(level.bytes for level in own) for own in self.levels.values())

    def bytes_of(self, plan: Plan) -> int:
        """Return the bytes of the weights of a plan that has these types."""
        values = self.fewest.model.view.values
        return sum(_bytes(s, float_array(values[s.value])) for s in _weights(plan))

    def within(self, most: int) -> Assignment:
        """Return the assignment of types with the least noise whose weights take at most `most` bytes."""
        chosen = allocate(self.levels, most)
        types = {node: chosen[name] for name in self.levels for node in self.nodes.get(name, ())}
        return _with_types(self.fewest, types)


def weight_levels(base: Candidate, evaluator: Evaluator) -> WeightLevels:
    """Return the noise of each weight in --bits, and in every larger number of bits.

    It is measured on a few samples of the select set. Without samples, with --effort fast and for large
    models it is assumed: an element of a sensitive layer costs _SENSITIVE times as much as another.

    Args:
        base: with weights of fewer than 8 bits: of int8 products, or stored ones in a mode without these.
        evaluator: with a select set, or without one.
    """
    model = base.model
    set_by_user = model.constraints.weight_types
    fewest = base.changed(assignment=_with_types(base, {}))
    wider = [_widened(fewest, bits) for bits in sorted(model.scheme.weight_levels)[1:]]
    plans = [candidate.plan for candidate in (fewest, *wider)]
    nodes: dict[str, list[str]] = {}
    for site in (s for plan in plans for s in _weights(plan)):
        own = nodes.setdefault(site.value, [])
        own += [node for node, _ in site.uses or () if node not in set_by_user and node not in own]
    elements = sum(float_array(model.view.values[n]).size for n in {s.value for s in _weights(fewest.plan)})
    noise = _measured(fewest, wider, evaluator) if _measures(base, evaluator) else _assumed(base)
    return WeightLevels(fewest, nodes, _levels(model.view, plans, nodes, noise), elements)


def allocate_bits(base: Candidate, evaluator: Evaluator) -> Candidate:
    """Return the candidate with the least noise within --target-size or --target-bits.

    Without such an aim: within the bytes of `base`, whose types are those of the rule of thumb. Of both the
    more accurate one is returned, and `base` itself where nothing can be measured.

    Raises:
        UsageError: all weights in --bits are already larger.
    """
    options = base.model.options
    aimed = bool(options.target_size or options.target_bits)
    by_rule = base.assignment.weight_types != base.model.constraints.weight_types
    if not aimed and not (by_rule and _measures(base, evaluator)):
        return base
    weights = weight_levels(base, evaluator)
    most = _most(weights, evaluator) if aimed else weights.bytes_of(base.plan)
    chosen = weights.fewest.changed(assignment=weights.within(most))
    if aimed or evaluator.error(chosen).sqnr > evaluator.error(base).sqnr:
        return chosen
    return base


def spread_bits(base: Candidate, evaluator: Evaluator, count: int) -> dict[str, Candidate]:
    """Return candidates from the smallest model to float weights, named by their bits a weight.

    Their bytes are spread evenly up to those of 8 bits, beyond which few models gain.
    """
    weights = weight_levels(base, evaluator)
    levels = weights.levels.values()
    eight = sum(max(one.bytes for one in own if one.qtype is not FLOAT32) for own in levels)
    steps = max(count - 1, 1)
    sizes = [weights.least + (eight - weights.least) * step // steps for step in range(count)]
    sizes.append(sum(max(one.bytes for one in own) for own in levels))
    return {
        f"{8 * size / max(weights.elements, 1):.2f} bits": base.changed(assignment=weights.within(size))
        for size in sizes
    }


def mixes_bits(candidate: Candidate) -> bool:
    """Return whether its weights may have several types: few bits that are stored, or an aim for products."""
    scheme, options = candidate.model.scheme, candidate.model.options
    if scheme.form is Form.INT8:
        return bool(options.target_size or options.target_bits)
    return scheme.storage in FEW_BITS


def _with_types(base: Candidate, types: Mapping[str, QType]) -> Assignment:
    """The assignment with types for the weights of nodes, and those that the user set."""
    set_by_user, scheme = base.model.constraints, base.model.scheme
    if scheme.form is Form.INT8:
        return replace(base.assignment, product_types={**types, **set_by_user.product_types(scheme)})
    return replace(base.assignment, weight_types={**types, **set_by_user.weight_types})


def _weights(plan: Plan) -> list[Site]:
    """The weights among whose types there is a choice."""
    products = [s for s in plan.sites if s.kind is Kind.WEIGHT]
    return products or [s for s in plan.sites if s.kind in WEIGHTS]


def _measures(base: Candidate, evaluator: Evaluator) -> bool:
    """Whether the noise of weights is measured: the model with switches holds each weight several times."""
    small = tensor_bytes(base.model.model) <= LARGE_BYTES
    return evaluator.select is not None and evaluator.effort.measures and small


def _measured(fewest: Candidate, wider: Sequence[Candidate], evaluator: Evaluator) -> Noise:
    errors = evaluator.errors_of(fewest, *wider, part=_PART)
    return lambda site, size: errors.relative(key_of(site))


def _assumed(base: Candidate) -> Noise:
    sensitive = sensitive_types(base.model.view, base.model.scheme)

    def noise(site: Site, size: int) -> float:
        factor = _SENSITIVE if any(node in sensitive for node, _ in site.uses or ()) else 1
        return factor * float(size) * 4.0**-site.spec.qtype.bits

    return noise


def _widened(base: Candidate, bits: int) -> Candidate:
    """The candidate with this number of bits for all weights that have fewer."""
    nodes = (n for s in _weights(base.plan) if s.spec.qtype.bits < bits for n, _ in s.uses or ())
    types = dict.fromkeys(nodes, base.model.scheme.weight_levels[bits])
    return base.changed(assignment=_with_types(base, types))


def _levels(
    view: View, plans: Sequence[Plan], nodes: Mapping[str, Sequence[str]], noise: Noise
) -> dict[str, list[Level]]:
    """The types that each weight can be stored in; that of the user alone where there is one."""
    levels: dict[str, list[Level]] = {}
    for plan in plans:
        for site in _weights(plan):
            array = float_array(view.values[site.value])
            own = levels.setdefault(site.value, [])
            if not own and nodes.get(site.value) and site.kind is not Kind.WEIGHT:
                own.append(Level(FLOAT32, array.nbytes, 0.0))
            own.append(Level(site.spec.qtype, _bytes(site, array), noise(site, array.size)))
    return levels


def _bytes(site: Site, array: NDArray[np.float32]) -> int:
    """The bytes of a weight in the file, scales included."""
    scales = math.prod(scale_shape(array.shape, site.spec.granularity))
    return array.size * site.spec.qtype.file_bits // 8 + scales * (
        _SCALE_BYTES + (0 if site.spec.symmetric else 1)
    )


def _most(weights: WeightLevels, evaluator: Evaluator) -> int:
    """The bytes that all weights may have.

    Raises:
        UsageError: fewer than all weights in the fewest bits have.
    """
    model, least = weights.fewest.model, weights.least
    options, fewest = model.options, min(model.scheme.weight_levels)
    hint = "" if model.scheme.form is Form.INT8 else "a larger --block has fewer scales"
    if options.target_bits:
        most = math.floor(weights.elements * options.target_bits / 8)
        if most < least:
            bits = 8 * least / max(weights.elements, 1)
            raise UsageError(
                f"--target-bits {options.target_bits:g}: {fewest} bits take {bits:.2f} with scales", hint
            )
        return most
    smallest = evaluator.size(weights.fewest)
    if options.target_size < smallest:
        raise UsageError(
            f"--target-size {options.target_size:,}: {fewest} bits a weight take {smallest:,} bytes", hint
        )
    return least + options.target_size - smallest
