"""What a plan's error comes to, from what each tensor alone does to the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.metrics import sqnr_db
from qtool.plan.model import OBSERVED, WEIGHTS, Plan, Site


def key_of(site: Site) -> str:
    """What is quantized as one: activations that share a scale, or a weight in one type and granularity."""
    if site.kind in OBSERVED:
        return site.group or site.value
    return f"{site.value} as {site.spec.qtype.name}, {site.spec.granularity}"


def keys_of(plan: Plan) -> tuple[str, ...]:
    """Everything that a plan quantizes, and that has an error of its own."""
    sites = (key_of(s) for s in plan.sites if s.kind in OBSERVED or s.kind in WEIGHTS)
    return tuple(dict.fromkeys((*sites, *plan.fp16.nodes)))


@dataclass(frozen=True)
class Errors:
    """What each tensor alone, quantized, does to the outputs.

    Args:
        outputs: names of the float outputs.
        signal: [outputs] float64: the sum of the squares of each, over the samples.
        noise: key -> [outputs] float64: the sum of the squares of what it adds.
        samples, passes: on how many of them, and in how many inferences, it was measured.
    """

    outputs: tuple[str, ...]
    signal: NDArray[np.float64]
    noise: Mapping[str, NDArray[np.float64]]
    samples: int
    passes: int

    def relative(self, key: str) -> float:
        """Its noise, as a share of the signal, summed over the outputs; 0 of what was not measured."""
        if key not in self.noise:
            return 0.0
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return float(np.nansum(self.noise[key] / self.signal))

    def sqnr(self, keys: Iterable[str]) -> float:
        """SQNR in dB of the worst output where all these are quantized: powers of errors add up."""
        known = [self.noise[k] for k in keys if k in self.noise]
        if not known:
            return math.inf
        found = map(sqnr_db, self.signal.tolist(), np.sum(known, axis=0).tolist())
        return min((db for db in found if not math.isnan(db)), default=math.inf)

    def joined(self, other: Errors) -> Errors:
        """Return both as one. The other's noise counts as the share of the signal that it was measured as."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scale = np.where(other.signal > 0, self.signal / other.signal, 1.0)
        noise = {**{key: found * scale for key, found in other.noise.items()}, **self.noise}
        return Errors(self.outputs, self.signal, noise, self.samples, self.passes + other.passes)
