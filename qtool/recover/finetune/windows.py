"""Convolutions and pools of ONNX as functions of torch, with ONNX's paddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = Mapping[str, Any]
"""The attributes of a node, with its `opset`, the number of its `outputs` and the `float` type."""
Operator = Callable[..., "Tensor | tuple[Tensor, ...]"]


def _pads(a: Attributes, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """The pads of a window in ONNX's order: all starts, then all ends."""
    n = len(kernel)
    strides, dilations = a.get("strides", [1] * n), a.get("dilations", [1] * n)
    auto = a.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "VALID"):
        return list(a.get("pads", [0] * 2 * n)) if auto == "NOTSET" else [0] * 2 * n
    starts, ends = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        starts.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return starts + ends


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    """x with its last axes padded; pads in ONNX's order."""
    n = len(pads) // 2
    pairs = [p for i in reversed(range(n)) for p in (pads[i], pads[n + i])]
    return F.pad(x, pairs, value=value) if any(pads) else x


def conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n = w.ndim - 2
    x = padded(x, _pads(a, x.shape[2:], w.shape[2:]))
    strides, dilations = a.get("strides", [1] * n), a.get("dilations", [1] * n)
    return torch.convolution(x, w, b, strides, [0] * n, dilations, False, [0] * n, a.get("group", 1))


def conv_transpose(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    n, group = w.ndim - 2, a.get("group", 1)
    strides, dilations = a.get("strides", [1] * n), a.get("dilations", [1] * n)
    extra = list(a.get("output_padding", [0] * n))
    y = torch.convolution(x, w, None, strides, [0] * n, dilations, True, [0] * n, group)
    y = padded(y, [0] * n + extra)
    pads = list(a.get("pads", [0] * 2 * n))
    if "output_shape" in a or a.get("auto_pad", "NOTSET").startswith("SAME"):
        sizes = a.get("output_shape") or [s * i for s, i in zip(strides, x.shape[2:], strict=True)]
        totals = [have - size for have, size in zip(y.shape[2:], sizes, strict=True)]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = more + less if a.get("auto_pad", "NOTSET") != "SAME_UPPER" else less + more
    y = padded(y, [-p for p in pads])
    return y if b is None else y + b.reshape(-1, *[1] * n)


def _ceiled(a: Attributes, sizes: Sequence[int], kernel: Sequence[int], pads: Sequence[int]) -> list[int]:
    """Pads with the room at the ends that ceil_mode takes for a last window."""
    n, ends = len(kernel), list(pads)
    strides, dilations = a.get("strides", [1] * n), a.get("dilations", [1] * n)
    for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        over = size + pads[i] + pads[n + i] - (d * (k - 1) + 1)
        windows = math.ceil(over / s)
        if windows * s < size + pads[i]:  # the last one starts inside
            ends[n + i] += max(windows * s - over, 0)
    return ends


def max_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = a["kernel_shape"]
    n = len(kernel)
    pads = _pads(a, x.shape[2:], kernel)
    pads = _ceiled(a, x.shape[2:], kernel, pads) if a.get("ceil_mode", 0) else pads
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    return pool(padded(x, pads, -math.inf), kernel, a.get("strides", [1] * n), 0, a.get("dilations", [1] * n))


def average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = a["kernel_shape"]
    n = len(kernel)
    pads = _pads(a, x.shape[2:], kernel)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    inside = padded(inside, pads, 1.0) if a.get("count_include_pad", 0) else padded(inside, pads)
    room = _ceiled(a, x.shape[2:], kernel, pads) if a.get("ceil_mode", 0) else pads
    more = [last - first for last, first in zip(room, pads, strict=True)]
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    strides = a.get("strides", [1] * n)
    return pool(padded(x, room), kernel, strides) / pool(padded(inside, more), kernel, strides)
