"""A weight's integers: the one place that makes them, for whoever writes or tries them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.model import Site


def integers_of(site: Site, weight: NDArray[np.floating]) -> NDArray[np.integer]:
    """The integers of a weight: those that the plan has for it, else the nearest. Same shape, qtype.dtype.

    Raises:
        KeyError: the site is not resolved.
    """
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    if site.integers is not None:
        return site.integers
    return quantize(weight, site.qparams, site.spec.qtype, site.spec.granularity)


def restored(site: Site, weight: NDArray[np.floating]) -> NDArray[np.float32]:
    """A weight as its integers have it. Same shape, float32.

    Raises:
        KeyError: the site is not resolved.
    """
    q = integers_of(site, weight)
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    return dequantize(q, site.qparams, site.spec.granularity)
