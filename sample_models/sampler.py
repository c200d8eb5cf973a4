"""The sampler of the model in diffusion/, and the distance of what it generates from real images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STEPS = 1000
# The least and the greatest standard deviation of the noise.
SIGMAS = (0.02, 10.0)

Images = NDArray[np.float32]


def sigma_of(step: NDArray[np.integer]) -> NDArray[np.float64]:
    """The standard deviation of the noise in an image at each step 0..999, a geometric series."""
    low, high = SIGMAS
    return low * (high / low) ** (np.asarray(step, np.float64) / (STEPS - 1))


def sample(run: Callable[[Images, NDArray[np.int64]], Images], count: int, runs: int, seed: int) -> Images:
    """Generate images [count, 1, 16, 16] in about -1..1, from noise (DDIM, arXiv 2010.02502).

    Args:
        run: the model: images and the step [1] -> the noise in them.
        count: of images.
        runs: of the model, at steps evenly spread.
        seed: of the noise at the start.
    """
    steps = np.rint(np.linspace(STEPS - 1, 0, runs)).astype(np.int64)
    sigmas = [*sigma_of(steps), 0.0]
    x = (np.random.default_rng(seed).standard_normal((count, 1, 16, 16)) * sigmas[0]).astype(np.float32)
    for i, step in enumerate(steps):
        x = (x + (sigmas[i + 1] - sigmas[i]) * run(x, np.array([step]))).astype(np.float32)
    return x


def distance(
    features: NDArray[np.floating], mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> float:
    """The Frechet distance of features [n, d] from a normal distribution (FID, arXiv 1706.08500)."""
    own = np.cov(features.T.astype(np.float64))
    shift = features.mean(0) - mean
    roots = np.sqrt(np.clip(np.linalg.eigvals(own @ covariance).real, 0, None))
    return float(shift @ shift + np.trace(own + covariance) - 2 * roots.sum())
