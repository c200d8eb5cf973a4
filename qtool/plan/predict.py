"""Predict the error of a plan from the noise that each quantized tensor adds to the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.metrics import sqnr_db
from qtool.plan.model import OBSERVED, WEIGHTS, Plan, Site


def key_of(site: Site) -> str:
    """Return the key of a site's noise: activations that share a scale, or a weight in one quantization."""
    if site.kind in OBSERVED:
        return site.group or site.value
    return f"{site.value} as {site.spec.qtype.name}, {site.spec.granularity}"


def keys_of(plan: Plan) -> tuple[str, ...]:
    """Return the keys of all that adds noise in a plan."""
    sites = (key_of(s) for s in plan.sites if s.kind in OBSERVED or s.kind in WEIGHTS)
    return tuple(dict.fromkeys((*sites, *plan.fp16.nodes)))


def relative_noise(noise: NDArray[np.float64], signal: NDArray[np.float64]) -> float:
    """Return noise as a share of the signal, summed over the outputs.

    Args:
        noise, signal: [outputs], sums of squares.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return float(np.nansum(noise / signal))


@dataclass(frozen=True)
class TensorNoise:
    """The noise that each tensor adds to the outputs when it alone is quantized.

    Args:
        outputs: names of the float outputs.
        signal: [outputs] float64: the sum of squares of each output over the samples.
        noise: key -> [outputs] float64: the sum of squares of the error.
        samples, passes: the number of samples and of inferences behind it.
    """

    outputs: tuple[str, ...]
    signal: NDArray[np.float64]
    noise: Mapping[str, NDArray[np.float64]]
    samples: int
    passes: int

    def relative(self, key: str) -> float:
        """Return the noise of a key as a share of the signal, summed over the outputs; 0 if not measured."""
        return relative_noise(self.noise[key], self.signal) if key in self.noise else 0.0

    def sqnr(self, keys: Iterable[str]) -> float:
        """Return the SQNR in dB of the worst output with all these keys quantized: their noise adds up."""
        noise = [self.noise[k] for k in keys if k in self.noise]
        if not noise:
            return math.inf
        outputs = map(sqnr_db, self.signal.tolist(), np.sum(noise, axis=0).tolist())
        return min((db for db in outputs if not math.isnan(db)), default=math.inf)

    def joined(self, other: TensorNoise) -> TensorNoise:
        """Return both as one; the other's noise is scaled to this signal."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            scale = np.where(other.signal > 0, self.signal / other.signal, 1.0)
        noise = {**{key: noise * scale for key, noise in other.noise.items()}, **self.noise}
        return TensorNoise(self.outputs, self.signal, noise, self.samples, self.passes + other.passes)
