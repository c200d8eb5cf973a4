"""The limit on the weights of CPUs that add two products of u8 x s8 in 16 bits (VPMADDUBSW), and saturate.

The two belong to neighbours in the order of the kernel's sum: 2k and 2k + 1 of a matrix's rows; of a
convolution's weights with channels last, tap by tap. tests/numerics/test_pairs.py asks the kernels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtool.numerics.qparams import F64, fold, magnitudes, scaled_axes, unfold
from qtool.tables.qtypes import Granularity, PerTensor


def pair_magnitudes(w: NDArray[np.floating], granularity: Granularity) -> F64:
    """Return the largest sum under each scale of two neighbours of one sign, without it.

    With one scale for all channels any two may be neighbours. Shapes are those of `magnitudes`.
    """
    if isinstance(granularity, PerTensor):
        return 2 * magnitudes(w, granularity)
    # Of two neighbours a and b, the sum of those of one sign is the largest of |a|, |b| and |a + b|.
    values, axes = unfold(w, granularity), scaled_axes(granularity, w.ndim)
    if len(axes) > 1 and values.shape[axes[0]] % 2:  # pairs run across taps
        sums, axes = _pairs(w, granularity)[0].sum(axis=-1), (-1,)
    else:
        cut = [slice(None)] * axes[0]
        count = values.shape[axes[0]] // 2 * 2
        sums = values[(*cut, slice(0, count, 2))] + values[(*cut, slice(1, count, 2))]
    largest = np.maximum(sums.max(axis=axes, initial=0), -sums.min(axis=axes, initial=0))
    return np.asarray(np.maximum(magnitudes(w, granularity), largest), np.float64)


def within_pairs(q: NDArray[np.integer], granularity: Granularity, limit: int) -> NDArray[np.integer]:
    """Return integers whose pairs of one sign sum to `limit` at most: the larger one gives way.

    q: any shape, centred on 0 -> same shape and type.
    """
    if isinstance(granularity, PerTensor):
        return np.asarray(np.clip(q, -(limit // 2), limit // 2))
    pairs, order, shape = _pairs(q.astype(np.int16), granularity)
    for sign in (1, -1):
        over = np.maximum(np.maximum(sign * pairs, 0).sum(axis=-1, keepdims=True) - limit, 0)
        larger = np.argmax(sign * pairs, axis=-1, keepdims=True)
        np.put_along_axis(pairs, larger, np.take_along_axis(pairs, larger, -1) - sign * over, -1)
    columns = math.prod(shape[pairs.ndim - 2 :])
    rows = pairs.reshape(*pairs.shape[:-2], 2 * pairs.shape[-2])[..., :columns]
    return fold(rows.reshape(shape).transpose(np.argsort(order)), granularity, q.shape).astype(q.dtype)


def _pairs(w: NDArray[Any], granularity: Granularity) -> tuple[NDArray[Any], list[int], tuple[int, ...]]:
    """Return a copy [.., K/2, 2] in the kernel's order, with the order of the axes and their lengths."""
    values, covered = unfold(w, granularity), scaled_axes(granularity, w.ndim)
    scaled = [i for i in range(values.ndim) if i not in covered]
    order = [*scaled, *covered[1:], covered[0]]
    ordered = values.transpose(order)
    rows = ordered.reshape(*ordered.shape[: len(scaled)], math.prod(ordered.shape[len(scaled) :]))
    padded = np.pad(rows, [(0, 0)] * len(scaled) + [(0, rows.shape[-1] % 2)])
    return padded.reshape(*padded.shape[:-1], padded.shape[-1] // 2, 2), order, ordered.shape
