"""Bits a layer: the fewest where that hurts the outputs least, more or floats where there is room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qtool.data.samples import Source as Samples
from qtool.errors import UsageError
from qtool.graph.save import file_size
from qtool.graph.view import float_constant
from qtool.job import Job
from qtool.measure.sensitivity import sensitivity
from qtool.options import Progress
from qtool.plan.allocate import Level, allocate
from qtool.plan.model import WEIGHTS, Plan, Site, Wishes
from qtool.plan.predict import Errors, key_of
from qtool.planning import Planned, Planner
from qtool.recipe import written
from qtool.tables.modes import WEIGHT_BITS
from qtool.tables.qtypes import FLOAT32, QType

_SCALE_BYTES = 4


@dataclass(frozen=True)
class Weights:
    """The weights of a model, and what each can be kept in.

    Args:
        wish: what was asked for.
        fewest: all in the fewest bits, as far as they can be.
        nodes: weight -> the nodes whose it is, of those that the user did not settle.
        levels: weight -> its types, their bytes and their noise.
        elements: of all of them.
    """

    wish: Wishes
    fewest: Plan
    nodes: Mapping[str, Sequence[str]]
    levels: Mapping[str, Sequence[Level]]
    elements: int

    @property
    def least(self) -> int:
        """Bytes of all at their smallest."""
        return sum(min(level.bytes for level in found) for found in self.levels.values())

    def within(self, most: int) -> Wishes:
        """The wish for types that make the least noise within so many bytes."""
        chosen = allocate(self.levels, most)
        types = {node: chosen[name] for name in self.levels for node in self.nodes.get(name, ())}
        return replace(self.wish, weights={**types, **self.wish.weights})

    def spread(self, count: int) -> dict[str, Wishes]:
        """Wishes from the smallest model to floats, by their bits a weight; the numbers of bytes are evenly
        spread up to where 8 bits are, which is as much as most have a use for.
        """
        every = self.levels.values()
        eight = sum(max(one.bytes for one in found if one.qtype is not FLOAT32) for found in every)
        steps = max(count - 1, 1)
        aims = [self.least + (eight - self.least) * step // steps for step in range(count)]
        aims.append(sum(max(one.bytes for one in found) for found in every))
        return {f"{8 * aim / max(self.elements, 1):.2f} bits": self.within(aim) for aim in aims}


def weights_of(job: Job, planner: Planner, samples: Samples, progress: Progress) -> Weights:
    """Find the sensitivities of all weights, in the bits asked for and in all that are more.

    Args:
        job: of a mode for weights, with fewer than 8 bits asked for.
        planner: makes its plans.
        samples: held-out ones, of which a few are run.
        progress: told how far it is.
    """
    fewest = planner.plan(job.wish).plan
    able = {n for s in _weights(fewest) for n, _ in s.uses or ()} - job.wish.weights.keys()
    more = [q for bits, q in WEIGHT_BITS.items() if bits > job.options.bits]
    plans = [fewest, *(planner.plan(_widened(job.wish, fewest, q)).plan for q in more)]
    errors = sensitivity(
        job.prepared.model,
        plans,
        samples,
        job.options.threads,
        lambda done, total: progress("sensitivity", done, total),
    )
    nodes: dict[str, list[str]] = {}
    for site in (s for plan in plans for s in _weights(plan)):
        nodes.setdefault(site.value, []).extend(node for node, _ in site.uses or () if node in able)
    arrays = (float_constant(job.view.values[name]) for name in {s.value for s in _weights(fewest)})
    elements = sum(array.size for array in arrays if array is not None)
    return Weights(job.wish, fewest, nodes, _levels(job, plans, errors), elements)


def allotted(job: Job, planner: Planner, samples: Samples | None, progress: Progress) -> Planned:
    """The plan that makes the best of the bytes, or the bits a weight, that were asked for.

    Raises:
        UsageError: there are no samples to find sensitivities on, or not even the fewest bits are few enough.
    """
    if samples is None:
        raise UsageError(
            "--target-size and --target-bits choose by what samples show", "add --calib SRC or --data SRC"
        )
    found = weights_of(job, planner, samples, progress)
    return planner.plan(found.within(_most(job, found)))


def _weights(plan: Plan) -> list[Site]:
    return [s for s in plan.sites if s.kind in WEIGHTS]


def _widened(wish: Wishes, fewest: Plan, qtype: QType) -> Wishes:
    """The wish with all weights in a type that have fewer bits."""
    nodes = (n for s in _weights(fewest) if s.spec.qtype.bits < qtype.bits for n, _ in s.uses or ())
    return replace(wish, weights={**dict.fromkeys(nodes, qtype), **wish.weights})


def _levels(job: Job, plans: Sequence[Plan], errors: Errors) -> dict[str, list[Level]]:
    """What each weight can be kept in."""
    found: dict[str, list[Level]] = {}
    for plan in plans:
        for site in _weights(plan):
            array = float_constant(job.view.values[site.value])
            if array is None or site.qparams is None:
                continue
            scales = site.qparams.scale.size * (_SCALE_BYTES + (0 if site.spec.symmetric else 1))
            size = array.size * site.spec.qtype.bits // 8 + scales
            levels = found.setdefault(site.value, [Level(FLOAT32, array.nbytes, 0.0)])
            levels.append(Level(site.spec.qtype, size, errors.relative(key_of(site))))
    return found


def _most(job: Job, found: Weights) -> int:
    """Bytes that all weights may have.

    Raises:
        UsageError: fewer than they have in the fewest bits.
    """
    options, least = job.options, found.least
    if options.target_bits:
        most, bits = math.floor(found.elements * options.target_bits / 8), 8 * least / max(found.elements, 1)
        if most < least:
            raise UsageError(
                f"--target-bits {options.target_bits:g}: {options.bits} bits are {bits:.2f} with scales",
                "a larger --block has fewer scales",
            )
        return most
    smallest = file_size(written(job.prepared.model, found.fewest))
    if options.target_size < smallest:
        raise UsageError(
            f"--target-size {options.target_size:,}: with {options.bits} bits a weight {smallest:,} bytes",
            "a larger --block has fewer scales",
        )
    return least + options.target_size - smallest
