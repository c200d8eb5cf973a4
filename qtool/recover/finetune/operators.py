"""The operators of ONNX as functions of torch: a row an op.

A row takes the attributes of the node and its inputs (None where one is left out), and returns the output or
a tuple of them. Ops without a row run by onnx.reference, where no gradient is needed (forward.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from qtool.recover.finetune.windows import (
    Attributes,
    Operator,
    average_pool,
    conv,
    conv_transpose,
    max_pool,
    padded,
)

TYPES = {
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
}


def _plain(function: Callable[..., Any]) -> Operator:
    """A row of an op without attributes."""
    return lambda a, *x: function(*x)


def _ints(x: Tensor | None) -> list[int]:
    return [] if x is None else [int(i) for i in x.reshape(-1).tolist()]


def _axes(a: Attributes, x: Tensor, axes: Tensor | None) -> list[int]:
    """The axes of an op: an input, in older opsets an attribute."""
    numbers = _ints(axes) if axes is not None else list(a.get("axes", ()))
    return [int(i) % max(x.ndim, 1) for i in numbers]


def _gemm(a: Attributes, x: Tensor, w: Tensor, c: Tensor | None = None) -> Tensor:
    y = (x.T if a.get("transA") else x) @ (w.T if a.get("transB") else w) * a.get("alpha", 1.0)
    return y if c is None else y + c * a.get("beta", 1.0)


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def row(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = _axes(a, x, axes)
        if not over and a.get("noop_with_empty_axes"):
            return x
        return function(x, over or list(range(x.ndim)), bool(a.get("keepdims", 1)))

    return row


def _slice(
    a: Attributes,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first = _ints(starts) if starts is not None else a["starts"]
    last = _ints(ends) if ends is not None else a["ends"]
    along = _axes(a, x, axes) or list(range(len(first)))
    by = _ints(steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        indices = list(range(*slice(start, end, step).indices(x.shape[axis])))
        if step == 1:
            x = x.narrow(axis, indices[0] if indices else 0, len(indices))
        else:
            x = x.index_select(axis, torch.tensor(indices, dtype=torch.int64, device=x.device))
    return x


def _gather(a: Attributes, x: Tensor, at: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    at = torch.where(at < 0, at + x.shape[axis], at).long()
    picked = x.index_select(axis, at.reshape(-1))
    return picked.reshape([*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]])


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    dims = _ints(shape)
    if not a.get("allowzero"):
        dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
    return x.reshape(dims)


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    added = _ints(axes) if axes is not None else a["axes"]
    total = x.ndim + len(added)
    for axis in sorted(i % total for i in added):
        x = x.unsqueeze(axis)
    return x


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    gone = _axes(a, x, axes) or [i for i, d in enumerate(x.shape) if d == 1]
    return x.reshape([d for i, d in enumerate(x.shape) if i not in gone])


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    parts = _ints(sizes) or list(a.get("split", ()))
    if not parts:
        size = -(-x.shape[axis] // a["outputs"])
        parts = [min(size, x.shape[axis] - i * size) for i in range(a["outputs"])]
    return tuple(torch.split(x, parts, axis))


def _expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(_ints(shape))))


def _pad(
    a: Attributes,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    widths = _ints(pads) if pads is not None else list(a["pads"])
    along = [i % x.ndim for i in _ints(axes)] or list(range(x.ndim))
    full = [0] * 2 * x.ndim
    for i, axis in enumerate(along):
        full[axis], full[x.ndim + axis] = widths[i], widths[len(along) + i]
    mode = a.get("mode", "constant")
    if mode == "constant":
        return padded(x, full, float(value) if value is not None and value.numel() else a.get("value", 0.0))
    for axis in along:  # by index: torch pads only some ranks by reflection
        size, first, last = x.shape[axis], full[axis], full[x.ndim + axis]
        at = torch.arange(-first, size + last, device=x.device)
        if mode == "reflect":
            at = (size - 1) - ((at % max(2 * size - 2, 1)) - (size - 1)).abs()
        at = at % size if mode == "wrap" else at.clamp(0, size - 1)
        x = x.index_select(axis, at)
    return x


def _cast(a: Attributes, x: Tensor) -> Tensor:
    to = ir.DataType(a["to"])
    return x.to(a["float"] if to == ir.DataType.FLOAT else TYPES[to])


def _softmax(a: Attributes, x: Tensor, of: Callable[..., Tensor] = torch.softmax) -> Tensor:
    if a["opset"] >= 13:
        return of(x, a.get("axis", -1))
    return of(_flatten({"axis": a.get("axis", 1)}, x), -1).reshape(x.shape)


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -1) % x.ndim
    y = F.layer_norm(x, x.shape[axis:], None, None, a.get("epsilon", 1e-5)) * scale
    return y if bias is None else y + bias


def _batch_norm(a: Attributes, x: Tensor, *of: Tensor) -> Tensor:
    scale, bias, mean, var = (t.reshape(-1, *[1] * (x.ndim - 2)) for t in of)
    return (x - mean) * torch.rsqrt(var + a.get("epsilon", 1e-5)) * scale + bias


def _instance_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=a.get("epsilon", 1e-5))


def _gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=a.get("approximate", "none"))


def _fast_gelu(a: Attributes, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bounds = (a.get("min") if low is None else low, a.get("max") if high is None else high)
    least, most = (b.item() if isinstance(b, Tensor) else b for b in bounds)
    return x if least is None and most is None else x.clamp(least, most)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _extreme(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def row(a: Attributes, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return row


def _lstm(
    a: Attributes,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
    c: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """LSTM with the usual activations: x [T, N, I], w [D, 4H, I] of the gates i, o, f, c."""
    unusual = {"activations", "clip", "input_forget"} & {k for k, v in a.items() if v}
    usual = a.get("activations", ["Sigmoid", "Tanh", "Tanh"] * len(w))
    if (unusual - {"activations"}) or list(usual) != ["Sigmoid", "Tanh", "Tanh"] * len(w):
        raise ValueError("LSTM with other activations")
    if peepholes is not None or a.get("layout") or (lengths is not None and (lengths != len(x)).any()):
        raise ValueError("LSTM with peepholes, sequence lengths or batch first")
    size, directions = r.shape[2], len(w)
    order = torch.tensor([0, 2, 3, 1], device=x.device)  # torch: i, f, c, o

    def gates(t: Tensor) -> Tensor:
        return t.reshape(4, size, *t.shape[1:]).index_select(0, order).reshape(t.shape)

    zeros = x.new_zeros(directions, x.shape[1], size)
    h, c = (zeros if h is None else h), (zeros if c is None else c)
    b = w.new_zeros(directions, 8 * size) if b is None else b
    reverse = a.get("direction", "forward") == "reverse"
    flat = [t for i in range(directions) for t in (gates(w[i]), gates(r[i]), *map(gates, b[i].chunk(2)))]
    x = x.flip(0) if reverse else x
    y, last, cell = torch.lstm(x, (h, c), flat, True, 1, 0.0, False, directions == 2, False)
    y = (y.flip(0) if reverse else y).reshape(*y.shape[:2], directions, size).transpose(1, 2)
    return y, last, cell


def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    return F.hardtanh(x * a.get("alpha", 0.2) + a.get("beta", 0.5), 0.0, 1.0)


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "And": _plain(torch.logical_and),
    "AveragePool": average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Celu": lambda a, x: F.celu(x, a.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Cos": _plain(torch.cos),
    "Div": _plain(_divide),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),
    "Greater": _plain(torch.gt),
    "GreaterOrEqual": _plain(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "Less": _plain(torch.lt),
    "LessOrEqual": _plain(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": lambda a, x: _softmax(a, x, torch.log_softmax),
    "MatMul": _plain(torch.matmul),
    "Max": _extreme(torch.maximum),
    "MaxPool": max_pool,
    "Min": _extreme(torch.minimum),
    "Mish": _plain(F.mish),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _plain(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pad": _pad,
    "Pow": _plain(lambda x, y: torch.pow(x, y.to(x.dtype)) if y.numel() > 1 else torch.pow(x, float(y))),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: torch.sum(x * x, axes, keep)),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Selu": lambda a, x: a.get("gamma", 1.0507) * F.elu(x, a.get("alpha", 1.6733)),
    "Shape": lambda a, x: torch.tensor(x.shape[slice(a.get("start"), a.get("end"))], dtype=torch.int64),
    "Sigmoid": _plain(torch.sigmoid),
    "Sin": _plain(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Sum": _extreme(torch.add),
    "Swish": lambda a, x: x * torch.sigmoid(a.get("alpha", 1.0) * x),
    "Tanh": _plain(torch.tanh),
    "Tile": _plain(lambda x, repeats: x.tile(_ints(repeats))),
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.ndim))))),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
    "com.microsoft::FastGelu": _fast_gelu,
    "com.microsoft::Gelu": _gelu,
}
