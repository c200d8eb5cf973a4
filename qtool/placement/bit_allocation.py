"""Bit allocation: the fewest bits where that hurts the outputs least, more bits where there is room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.errors import UsageError
from qtool.evaluate.evaluator import Evaluator
from qtool.evaluate.sensitivity import sensitivity
from qtool.graph.view import float_constant
from qtool.placement.allocate import Level, allocate
from qtool.plan.assignment import Assignment
from qtool.plan.candidate import Candidate
from qtool.plan.model import WEIGHTS, Plan, Site
from qtool.plan.predict import Errors, key_of
from qtool.tables.modes import WEIGHT_BITS
from qtool.tables.qtypes import FLOAT32, QType

_SCALE_BYTES = 4


@dataclass(frozen=True)
class WeightLevels:
    """The weights of a model, and the types that each can be stored in.

    Args:
        fewest: the candidate with all weights in the fewest bits that they can have.
        nodes: weight -> its nodes, but for those that the user settled.
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
        return sum(min(level.bytes for level in found) for found in self.levels.values())

    def within(self, most: int) -> Assignment:
        """Return the assignment of types with the least noise whose weights take at most `most` bytes."""
        chosen = allocate(self.levels, most)
        types = {node: chosen[name] for name in self.levels for node in self.nodes.get(name, ())}
        before = self.fewest.assignment
        return replace(before, weight_types={**types, **self.fewest.model.constraints.weight_types})


def measure_levels(base: Candidate, evaluator: Evaluator) -> WeightLevels:
    """Find what each weight does to the outputs in the bits asked for, and in all that are more.

    Args:
        base: of a mode for weights, with fewer than 8 bits asked for.
        evaluator: with a select set; a few of its samples are run.
    """
    model, select = base.model, evaluator.select
    if select is None:
        raise ValueError("there is no select set")
    settled = model.constraints.weight_types.keys()
    able = {n for s in _weights(base.plan) for n, _ in s.uses or ()} - settled
    more = [q for bits, q in WEIGHT_BITS.items() if bits > model.options.bits]
    plans = [base.plan, *(base.changed(assignment=_widened(base, q)).plan for q in more)]
    errors = sensitivity(
        model.model,
        plans,
        select,
        model.threads,
        lambda done, total: evaluator.progress("sensitivity", done, total),
    )
    nodes: dict[str, list[str]] = {}
    for site in (s for plan in plans for s in _weights(plan)):
        nodes.setdefault(site.value, []).extend(node for node, _ in site.uses or () if node in able)
    arrays = (float_constant(model.view.values[name]) for name in {s.value for s in _weights(base.plan)})
    elements = sum(array.size for array in arrays if array is not None)
    return WeightLevels(base, nodes, _levels(base, plans, errors), elements)


def allocated(base: Candidate, evaluator: Evaluator) -> Candidate:
    """Return the candidate that makes the best of the bytes, or the bits a weight, that the user asked for.

    Raises:
        UsageError: there are no samples to choose by, or the fewest bits are more than that.
    """
    if evaluator.select is None:
        raise UsageError(
            "--target-size and --target-bits choose by what samples show", "add --calib SRC or --data SRC"
        )
    found = measure_levels(base, evaluator)
    return base.changed(assignment=found.within(_most(found, evaluator)))


def spread_bits(base: Candidate, evaluator: Evaluator, count: int) -> dict[str, Candidate]:
    """Return candidates from the smallest model to floats, by their bits a weight.

    Their bytes are spread evenly up to where 8 bits are, which is as much as most models have a use for.
    """
    found = measure_levels(base, evaluator)
    every = found.levels.values()
    eight = sum(max(one.bytes for one in levels if one.qtype is not FLOAT32) for levels in every)
    steps = max(count - 1, 1)
    aims = [found.least + (eight - found.least) * step // steps for step in range(count)]
    aims.append(sum(max(one.bytes for one in levels) for levels in every))
    return {
        f"{8 * aim / max(found.elements, 1):.2f} bits": base.changed(assignment=found.within(aim))
        for aim in aims
    }


def _weights(plan: Plan) -> list[Site]:
    return [s for s in plan.sites if s.kind in WEIGHTS]


def _widened(base: Candidate, qtype: QType) -> Assignment:
    """The assignment with all weights in a type that have fewer bits."""
    nodes = (n for s in _weights(base.plan) if s.spec.qtype.bits < qtype.bits for n, _ in s.uses or ())
    types = {**dict.fromkeys(nodes, qtype), **base.model.constraints.weight_types}
    return replace(base.assignment, weight_types=types)


def _levels(base: Candidate, plans: Sequence[Plan], errors: Errors) -> dict[str, list[Level]]:
    """The types that each weight can be stored in."""
    found: dict[str, list[Level]] = {}
    for plan in plans:
        for site in _weights(plan):
            array = float_constant(base.model.view.values[site.value])
            if array is None or site.qparams is None:
                continue
            scales = site.qparams.scale.size * (_SCALE_BYTES + (0 if site.spec.symmetric else 1))
            size = array.size * site.spec.qtype.bits // 8 + scales
            levels = found.setdefault(site.value, [Level(FLOAT32, array.nbytes, 0.0)])
            levels.append(Level(site.spec.qtype, size, errors.relative(key_of(site))))
    return found


def _most(found: WeightLevels, evaluator: Evaluator) -> int:
    """The bytes that all weights may have.

    Raises:
        UsageError: fewer than they have in the fewest bits.
    """
    options, least = found.fewest.model.options, found.least
    if options.target_bits:
        most, bits = math.floor(found.elements * options.target_bits / 8), 8 * least / max(found.elements, 1)
        if most < least:
            raise UsageError(
                f"--target-bits {options.target_bits:g}: {options.bits} bits are {bits:.2f} with scales",
                "a larger --block has fewer scales",
            )
        return most
    smallest = evaluator.size(found.fewest)
    if options.target_size < smallest:
        raise UsageError(
            f"--target-size {options.target_size:,}: with {options.bits} bits a weight {smallest:,} bytes",
            "a larger --block has fewer scales",
        )
    return least + options.target_size - smallest
