"""Statistics of each channel of an activation, over calibration samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.data.samples import Samples
from qtool.numerics.qparams import F64
from qtool.recover.inner_values import observe


@dataclass(frozen=True)
class ChannelStatistics:
    """Least and greatest value, E|x| and E[x^2] of each channel: float64 [C] each."""

    lo: F64
    hi: F64
    mean: F64
    square: F64

    @property
    def absmax(self) -> F64:
        """The greatest |x| of each channel: [C]."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))


def channel_statistics(
    model: ir.Model, axes: Mapping[str, int], samples: Samples, count: int, threads: int = 0
) -> dict[str, ChannelStatistics]:
    """Return the statistics of values of the main graph; values without elements are left out.

    Args:
        model: prepared.
        axes: value -> the axis of its channels.
        samples: at most `count` of them are run, evenly chosen.
        threads: of the runtime.

    Raises:
        DataError: a sample does not fit the model.
        RuntimeFailure: the model fails on a sample.
    """
    sums: dict[str, tuple[F64, F64, F64, F64, int]] = {}
    for name, array in observe(model, list(axes), samples, count, threads):
        if not array.ndim or not array.size:
            continue
        x = np.moveaxis(np.asarray(array, np.float32), axes[name], -1)
        x = x.reshape(-1, x.shape[-1])
        lo, hi = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
        total, squares = (f(x).sum(axis=0, dtype=np.float64) for f in (np.abs, np.square))
        rows = len(x)
        if name in sums:
            a, b, c, d, n = sums[name]
            lo, hi, total, squares, rows = (
                np.minimum(a, lo),
                np.maximum(b, hi),
                c + total,
                d + squares,
                n + rows,
            )
        sums[name] = lo, hi, total, squares, rows
    return {
        name: ChannelStatistics(lo, hi, total / rows, squares / rows)
        for name, (lo, hi, total, squares, rows) in sums.items()
    }
