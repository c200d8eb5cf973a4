"""The inputs that a convolution multiplies with its weights, as rows of a matrix (im2col)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qtool.numerics.qparams import F32

Indices = NDArray[np.int64]

# Multiples of the golden ratio spread evenly over [0, 1), and do not align with rows and columns of an image.
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Convolution:
    """The attributes of a Conv or ConvTranspose, one entry a spatial axis, as ONNX defines them.

    Args:
        kernel: the weight's spatial shape.
        strides, dilations: as in the node, or ones.
        pads: before each axis, and then behind each; used where auto_pad is NOTSET.
        groups: the count of groups of channels.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        transposed: a ConvTranspose.
        output_padding, output_shape: of a ConvTranspose; output_shape () where it is not given.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int = 1
    auto_pad: str = "NOTSET"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    @property
    def reach(self) -> tuple[int, ...]:
        """The length of the dilated kernel along each axis."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


@dataclass(frozen=True)
class _Axis:
    """One axis: zeros before and behind (negative: cut off), the count of results, and their distance."""

    before: int
    behind: int
    count: int
    stride: int


def conv_weight_rows(w: NDArray[np.generic], conv: Convolution) -> NDArray[np.generic]:
    """Return a weight as the rows that its patches are multiplied with.

    w: [O, I/groups, *kernel] of a Conv, [I, O/groups, *kernel] of a ConvTranspose
    -> [groups, O/groups, I/groups * taps], with `patches(..) @ rows^T` the convolution of each group.
    """
    groups = conv.groups
    if not conv.transposed:
        return w.reshape(groups, len(w) // groups, -1)
    parted = w.reshape(groups, len(w) // groups, w.shape[1], -1).swapaxes(1, 2)
    return parted.reshape(groups, w.shape[1], -1)


def conv_weight_of(
    rows: NDArray[np.generic], shape: tuple[int, ...], conv: Convolution
) -> NDArray[np.generic]:
    """Return the weight of a shape from its rows: the inverse of `conv_weight_rows`."""
    if not conv.transposed:
        return rows.reshape(shape)
    parted = rows.reshape(conv.groups, shape[1], shape[0] // conv.groups, -1)
    return parted.swapaxes(1, 2).reshape(shape)


def position_count(shape: tuple[int, ...], conv: Convolution) -> int:
    """Return the count of results of a channel, over the batch. shape: [N, C, *spatial] of the input."""
    return shape[0] * math.prod(axis.count for axis in _axes(shape[2:], conv))


def spread_out(total: int, most: int) -> Indices:
    """Return at most `most` of `total` positions, spread evenly; the same ones at every call."""
    if total <= most:
        return np.arange(total, dtype=np.int64)
    picked = np.floor(np.mod(np.arange(1, most + 1) * _GOLDEN, 1.0) * total).astype(np.int64)
    return np.unique(picked)


def patches(x: F32, conv: Convolution, positions: Indices) -> F32:
    """Return the inputs that the weights of each group are multiplied with, for some of the results.

    Args:
        x: [N, C, *spatial] float32.
        conv: the convolution.
        positions: [P], each an index into the flattened [N, *result].

    Returns:
        [groups, P, C/groups * taps] float32, a view or a copy.
    """
    spatial = x.ndim - 2
    axes = _axes(x.shape[2:], conv)
    padded = _fitted(_stuffed(x, conv.strides) if conv.transposed else x, axes)
    windows = sliding_window_view(padded, conv.reach, axis=tuple(range(2, x.ndim)))
    every = tuple(slice(None, None, a.stride) for a in axes)
    taps = tuple(slice(None, None, d) for d in conv.dilations)
    windows = windows[(slice(None), slice(None), *every, *taps)]
    if conv.transposed:  # each result gathers what was scattered: the taps in reverse
        windows = np.flip(windows, axis=tuple(range(-spatial, 0)))
    sample, *at = np.unravel_index(positions, (len(x), *(a.count for a in axes)))
    index: tuple[Any, ...] = (sample, slice(None), *at)
    parted = windows[index].reshape(len(positions), conv.groups, -1)  # of [P, C, *taps]
    return np.asarray(parted.swapaxes(0, 1), np.float32)


def _axes(spatial: tuple[int, ...], conv: Convolution) -> list[_Axis]:
    """Return padding and results along each axis; of a transposed convolution, those of its plain one."""
    of_one = _transposed_axis if conv.transposed else _axis
    return [of_one(conv, index, size) for index, size in enumerate(spatial)]


def _axis(conv: Convolution, index: int, size: int) -> _Axis:
    stride, reach = conv.strides[index], conv.reach[index]
    if conv.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        before, behind = _parted(total, conv.auto_pad)
    elif conv.auto_pad == "VALID":
        before = behind = 0
    else:
        before, behind = conv.pads[index], conv.pads[index + len(conv.kernel)]
    return _Axis(before, behind, (size + before + behind - reach) // stride + 1, stride)


def _transposed_axis(conv: Convolution, index: int, size: int) -> _Axis:
    """Return an axis of a ConvTranspose: a convolution of its input with stride - 1 zeros between values."""
    stride, reach = conv.strides[index], conv.reach[index]
    extra = conv.output_padding[index] if conv.output_padding else 0
    full = stride * (size - 1) + reach + extra
    if conv.output_shape or conv.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        count = conv.output_shape[index] if conv.output_shape else min(size * stride, full)
        head, _ = _parted(max(full - count, 0), conv.auto_pad)
    elif conv.auto_pad == "VALID":
        count, head = full, 0
    else:
        head = conv.pads[index]
        count = full - head - conv.pads[index + len(conv.kernel)]
    before = reach - 1 - head
    stuffed = stride * (size - 1) + 1
    return _Axis(before, count + reach - 1 - stuffed - before, count, 1)


def _parted(total: int, auto_pad: str) -> tuple[int, int]:
    """Return padding before and behind: the odd one behind in SAME_UPPER, else before."""
    less = total // 2
    return (less, total - less) if auto_pad == "SAME_UPPER" else (total - less, less)


def _stuffed(x: F32, strides: tuple[int, ...]) -> F32:
    """Return x with stride - 1 zeros between neighbours."""
    sizes = [s * (n - 1) + 1 for s, n in zip(strides, x.shape[2:], strict=True)]
    wide = np.zeros((*x.shape[:2], *sizes), np.float32)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
    return wide


def _fitted(x: F32, axes: list[_Axis]) -> F32:
    """Return x with zeros around it, or with its edges cut off."""
    cut = tuple(
        slice(max(-a.before, 0), n - max(-a.behind, 0)) for a, n in zip(axes, x.shape[2:], strict=True)
    )
    around = ((0, 0), (0, 0), *((max(a.before, 0), max(a.behind, 0)) for a in axes))
    return np.pad(x[(slice(None), slice(None), *cut)], around)
