"""Bit allocation: the types of all weights with the least noise at the outputs within a number of bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from qtool.errors import UsageError
from qtool.evaluate.evaluator import Evaluator
from qtool.graph.view import float_constant
from qtool.numerics.qparams import scale_shape
from qtool.plan.assignment import Assignment
from qtool.plan.candidate import Candidate
from qtool.plan.model import WEIGHTS, Plan, Site
from qtool.plan.predict import TensorNoise, key_of
from qtool.tables.modes import WEIGHT_BITS
from qtool.tables.qtypes import FLOAT32, QType

_SCALE_BYTES = 4
# The part of the budget for the noise of all weights in all types.
_PART = 0.6


@dataclass(frozen=True)
class Level:
    """A type of a weight: with the bytes in the file, scales included, and the noise at the outputs."""

    qtype: QType
    bytes: int
    noise: float


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

    def within(self, most: int) -> Assignment:
        """Return the assignment of types with the least noise whose weights take at most `most` bytes."""
        chosen = allocate(self.levels, most)
        types = {node: chosen[name] for name in self.levels for node in self.nodes.get(name, ())}
        before = self.fewest.assignment
        return replace(before, weight_types={**types, **self.fewest.model.constraints.weight_types})


def measure_levels(base: Candidate, evaluator: Evaluator) -> WeightLevels:
    """Measure the noise of each weight in --bits, and in every larger number of bits.

    Args:
        base: of a mode that quantizes only weights, with fewer than 8 bits.
        evaluator: with a select set; a few of its samples are run.
    """
    model = base.model
    settled = model.constraints.weight_types.keys()
    able = {n for s in _weights(base.plan) for n, _ in s.uses or ()} - settled
    more = [q for bits, q in WEIGHT_BITS.items() if bits > model.options.bits]
    wider = [base.changed(assignment=_widened(base, q)) for q in more]
    errors = evaluator.errors_of(base, *wider, part=_PART)
    plans = [base.plan, *(candidate.plan for candidate in wider)]
    nodes: dict[str, list[str]] = {}
    for site in (s for plan in plans for s in _weights(plan)):
        nodes.setdefault(site.value, []).extend(node for node, _ in site.uses or () if node in able)
    arrays = (float_constant(model.view.values[name]) for name in {s.value for s in _weights(base.plan)})
    elements = sum(array.size for array in arrays if array is not None)
    return WeightLevels(base, nodes, _levels(base, plans, errors), elements)


def allocate_bits(base: Candidate, evaluator: Evaluator) -> Candidate:
    """Return the candidate with the least noise within --target-size or --target-bits.

    Raises:
        UsageError: there are no samples to choose by, or all weights in --bits are already larger.
    """
    if evaluator.select is None:
        raise UsageError(
            "--target-size and --target-bits choose by errors on samples", "add --calib SRC or --data SRC"
        )
    weights = measure_levels(base, evaluator)
    return base.changed(assignment=weights.within(_most(weights, evaluator)))


def spread_bits(base: Candidate, evaluator: Evaluator, count: int) -> dict[str, Candidate]:
    """Return candidates from the smallest model to float weights, named by their bits a weight.

    Their bytes are spread evenly up to those of 8 bits, beyond which few models gain.
    """
    weights = measure_levels(base, evaluator)
    levels = weights.levels.values()
    eight = sum(max(one.bytes for one in own if one.qtype is not FLOAT32) for own in levels)
    steps = max(count - 1, 1)
    sizes = [weights.least + (eight - weights.least) * step // steps for step in range(count)]
    sizes.append(sum(max(one.bytes for one in own) for own in levels))
    return {
        f"{8 * size / max(weights.elements, 1):.2f} bits": base.changed(assignment=weights.within(size))
        for size in sizes
    }


def _weights(plan: Plan) -> list[Site]:
    return [s for s in plan.sites if s.kind in WEIGHTS]


def _widened(base: Candidate, qtype: QType) -> Assignment:
    """The assignment with this type for all weights that have fewer bits."""
    nodes = (n for s in _weights(base.plan) if s.spec.qtype.bits < qtype.bits for n, _ in s.uses or ())
    types = {**dict.fromkeys(nodes, qtype), **base.model.constraints.weight_types}
    return replace(base.assignment, weight_types=types)


def _levels(base: Candidate, plans: Sequence[Plan], errors: TensorNoise) -> dict[str, list[Level]]:
    """The types that each weight can be stored in."""
    levels: dict[str, list[Level]] = {}
    for plan in plans:
        for site in _weights(plan):
            array = float_constant(base.model.view.values[site.value])
            if array is None:
                continue
            scales = math.prod(scale_shape(array.shape, site.spec.granularity)) * (
                _SCALE_BYTES + (0 if site.spec.symmetric else 1)
            )
            size = array.size * site.spec.qtype.bits // 8 + scales
            own = levels.setdefault(site.value, [Level(FLOAT32, array.nbytes, 0.0)])
            own.append(Level(site.spec.qtype, size, errors.relative(key_of(site))))
    return levels


def _most(weights: WeightLevels, evaluator: Evaluator) -> int:
    """The bytes that all weights may have.

    Raises:
        UsageError: fewer than all weights in --bits have.
    """
    options, least = weights.fewest.model.options, weights.least
    if options.target_bits:
        most = math.floor(weights.elements * options.target_bits / 8)
        if most < least:
            bits = 8 * least / max(weights.elements, 1)
            raise UsageError(
                f"--target-bits {options.target_bits:g}: {options.bits} bits take {bits:.2f} with scales",
                "a larger --block has fewer scales",
            )
        return most
    smallest = evaluator.size(weights.fewest)
    if options.target_size < smallest:
        raise UsageError(
            f"--target-size {options.target_size:,}: {options.bits} bits a weight take {smallest:,} bytes",
            "a larger --block has fewer scales",
        )
    return least + options.target_size - smallest
