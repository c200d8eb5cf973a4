"""The rules by which ranges are estimated without samples: a row of ROWS or BOUNDS for each op."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibration.distribution import (
    BASES,
    CONSTANT,
    ESTIMATED,
    F64,
    NODES,
    WEIGHTS,
    Distribution,
    Source,
    bells,
    constant_distribution,
    either,
    pooled,
    scaled_noise,
    uniform,
)
from qtool.graph.view import attribute_float, attribute_int, constant, is_op
from qtool.runtime.session import Session
from qtool.tables.ops import OPS, Role

# The share of a channel's variance that neighbouring positions have in common: taps of a kernel add up by it,
# and averages keep it. From a quarter to three quarters, results on real models differ by 1 or 2 dB.
_COMMON = 0.5
_UNKNOWN_LENGTH = 64
_NORM_STEPS = 12
_LARGE = 1 << 16
# Inverses this many times the usual one are not estimated.
_RARE = 32.0


@dataclass(frozen=True)
class Call:
    """A node, the distributions of the values computed so far, and the versions of the operator sets."""

    node: ir.Node
    distributions: Mapping[str, Distribution]
    opsets: Mapping[str, int]

    def __getitem__(self, index: int) -> Distribution:
        """Return the distribution of an input.

        Raises:
            LookupError: its distribution is unknown.
        """
        value = self.node.inputs[index]
        array = constant(value)
        distribution = None if array is None else constant_distribution(array)
        if distribution is None and value is not None:
            distribution = self.distributions.get(value.name or "")
        if distribution is None:
            raise LookupError(f"the distribution of input {index} is unknown")
        return distribution

    def array(self, index: int) -> NDArray[np.floating]:
        """Return a constant input, in float64 unless it is large.

        Raises:
            ValueError: it is computed.
        """
        array = constant(self.node.inputs[index])
        if array is None:
            raise ValueError(f"input {index} is computed")
        return np.asarray(array, np.float32 if array.size > _LARGE else np.float64)

    def has(self, index: int) -> bool:
        """Return whether an optional input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def length(self, index: int, axes: Sequence[int] | slice) -> int:
        """Return the number of elements of an input along some axes; 64 where it is unknown."""
        value = self.node.inputs[index]
        if value is None or value.shape is None:
            return _UNKNOWN_LENGTH
        dims = list(value.shape)
        chosen = dims[axes] if isinstance(axes, slice) else [dims[a] for a in axes]
        lengths = [d for d in chosen if isinstance(d, int)]
        return math.prod(lengths) if len(lengths) == len(chosen) else _UNKNOWN_LENGTH


Rule = Callable[[Call], Distribution | None]


def elementwise(call: Call) -> Distribution | None:
    """Compute an elementwise op at the nodes of its inputs, as independent where they have two sources."""
    if is_op(call.node, "Div", "Mul") and (norm := _written_norm(call.node)) is not None:
        return norm
    operands = [call[i] for i in range(len(call.node.inputs)) if call.has(i)]
    if is_op(call.node, "Div", "Reciprocal") and _near_zero(operands[-1]):
        return None
    basis = max((x.basis for x in operands), key=BASES.index)
    masked = any(x.masked for x in operands)
    sources = list({id(x.source): x.source for x in operands if x.source is not None}.values())
    if len(sources) < 2:
        curve = _computed(call, [x.curve for x in operands])
        return Distribution(curve, basis, sources[0] if sources else None, masked)
    a, b = (x.curve for x in operands)
    grid = _computed(call, [np.repeat(a, NODES), np.tile(b, NODES)]).reshape(NODES, NODES)
    weights = np.outer(WEIGHTS, WEIGHTS)
    mean = (weights * grid).sum()
    # Two rare values seldom meet: the result reaches 10 sigma, and each end of either operand beside
    # the median of the other, within the bounds of interval arithmetic, which are those of the grid.
    reach = bells(mean, (weights * (grid - mean) ** 2).sum(), grid.min(), grid.max())
    likely = np.concatenate([grid[NODES // 2], grid[:, NODES // 2], reach])
    return pooled(grid, weights, basis, masked, (float(likely.min()), float(likely.max())))


def _near_zero(x: Distribution) -> bool:
    """Return whether some elements are so small that their inverses are all that counts."""
    size = np.abs(x.curve)
    return bool(_RARE * size.min() < np.median(size))


def _computed(call: Call, operands: Sequence[F64]) -> F64:
    """Run the node by onnxruntime, in float32, on operands of one length; constant scalars stay scalars."""
    node = ir.to_proto(call.node)
    present = [i for i in range(len(node.input)) if call.has(i)]
    node.input[:] = [f"x{i}" if call.has(i) else "" for i in range(len(node.input))]
    feeds = {}
    for i, curve in zip(present, operands, strict=True):
        array = constant(call.node.inputs[i])
        scalar = array is not None and array.size == 1
        feeds[f"x{i}"] = np.asarray(curve[0] if scalar else curve, np.float32)
    tensor = onnx.helper.make_tensor_value_info
    inputs = [tensor(name, onnx.TensorProto.FLOAT, x.shape) for name, x in feeds.items()]
    output = tensor(node.output[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "node", inputs, [output])
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in call.opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = Session(model.SerializeToString(), threads=1, name=call.node.name or "", optimize=False)
    result = np.asarray(session.run(feeds)[0], np.float64).reshape(-1)
    return np.broadcast_to(result, operands[0].shape)  # of constant scalars alone it is a scalar


def clip(call: Call) -> Distribution | None:
    """Clip to constant bounds; in opset 6 they are attributes."""
    least, most = (
        float(call.array(i).reshape(())) if call.has(i) else attribute_float(call.node, name, default)
        for i, name, default in ((1, "min", -math.inf), (2, "max", math.inf))
    )
    try:
        return replace(call[0], curve=np.clip(call[0].curve, least, most))
    except LookupError:
        return uniform(least, most)


def moved(call: Call) -> Distribution | None:
    """Elements of the first input, at other places."""
    return replace(call[0], source=Source())


def unmoved(call: Call) -> Distribution | None:
    """The first input itself; the dtype of the output decides whether it is an activation."""
    return call[0]


def or_zero(call: Call) -> Distribution | None:
    """Elements of the first input, and zeros."""
    return either([call[0], Distribution(np.zeros(NODES), CONSTANT)])


def concat(call: Call) -> Distribution | None:
    """Elements of all inputs. Fed keys and values of past tokens are taken to be like the present ones."""
    inputs = list(enumerate(call.node.inputs))
    past = [i for i, v in inputs if v is not None and v.is_graph_input() and v.name not in call.distributions]
    return either([call[i] for i, _ in inputs if i not in past])


def where(call: Call) -> Distribution | None:
    """Elements of either branch; a constant mask has no share."""
    parts = [x for x in (call[1], call[2]) if x.source is not None or not x.masked]
    made = either(parts)
    return None if made is None else replace(made, masked=call[1].masked or call[2].masked)


def norm(gamma: int, beta: int | None = None) -> Rule:
    """Return the rule for gamma z + beta, where z has mean 0 and variance 1, given both inputs' indices."""

    def rule(call: Call) -> Distribution | None:
        shift = call.array(beta) if beta is not None and call.has(beta) else np.zeros(1)
        return scaled_noise(call.array(gamma), shift)

    return rule


def _written_norm(node: ir.Node) -> Distribution | None:
    """Return the output of a norm that is written in small ops; None where this is not its last op.

    x / sqrt(mean(x^2) + eps), or x times the inverse of the root, perhaps with a constant scale in it.
    """
    if any(constant(value) is not None for value in node.inputs):
        return None
    for value in node.inputs[1:] if is_op(node, "Div") else node.inputs:
        factor = _inverse_deviation(value, divided=is_op(node, "Div"))
        if factor is not None:
            return scaled_noise(factor, np.zeros(1))
    return None


_IN_NORMS = "Sqrt Reciprocal Pow Add Sub Mul Div Max Clip Cast Reshape Expand Identity".split(" ")


def _inverse_deviation(value: ir.Value | None, divided: bool) -> F64 | None:
    """Return the scale s where dividing (or multiplying) by a value means s / sqrt(mean(..)); else None."""
    scale, rooted = np.ones(1), False
    for _ in range(_NORM_STEPS):
        node = None if value is None else value.producer()
        if node is None or is_op(node, "ReduceMean", "ReduceSum"):
            return scale if node is not None and rooted and divided else None
        computed = [v for v in node.inputs if v is not None and constant(v) is None]
        numbers = [
            np.asarray(a, np.float64).reshape(-1) for v in node.inputs if (a := constant(v)) is not None
        ]
        if not computed or not is_op(node, *_IN_NORMS):
            return None
        exponent = float(numbers[0][0]) if is_op(node, "Pow") and numbers else 0.5
        rooted |= is_op(node, "Sqrt") or (is_op(node, "Pow") and abs(exponent) == 0.5)
        if is_op(node, "Mul") and numbers and not rooted:
            scale = scale / numbers[0] if divided else scale * numbers[0]
        if (
            is_op(node, "Reciprocal")
            or exponent < 0
            or (is_op(node, "Div") and node.inputs[0] not in computed)
        ):
            divided = not divided
        value = computed[0]
    return None


def _product(
    x: Distribution, weights: NDArray[np.floating], bias: NDArray[np.floating] | float = 0.0
) -> Distribution | None:
    """Return the distribution of a product with constant weights.

    A channel of the output has the mean m sum(w) and the variance v |w|^2 for an input of mean m and variance
    v; the taps of a kernel at one input channel have a share of it in common. It reaches 10 sigma, within the
    bounds of interval arithmetic.

    Args:
        x: the input.
        weights: [output channels, input channels, taps].
        bias: [output channels] or [1].
    """
    sums, norms = (a.sum((1, 2), np.float64) for a in (weights, weights**2))
    squares = _COMMON * (weights.sum(2) ** 2).sum(1, np.float64) + (1.0 - _COMMON) * norms
    lo, hi = min(x.curve.min(), 0.0), max(x.curve.max(), 0.0)  # 0 pads
    plus, minus = np.maximum(weights, 0.0).sum((1, 2)), np.minimum(weights, 0.0).sum((1, 2))
    curves = bells(x.mean * sums, x.variance * squares, plus * lo + minus * hi, plus * hi + minus * lo)
    return pooled(curves + bias, WEIGHTS[:, None], ESTIMATED, x.masked)


def conv(call: Call) -> Distribution | None:
    """Conv with a constant weight [O, I/g, *kernel]; ConvTranspose with [I, O/g, *kernel].

    The kernel of a ConvTranspose is taken apart: each element of its output sees one tap in prod(strides).
    """
    w, bias = call.array(1), call.array(2).reshape(-1) if call.has(2) else np.zeros(1)
    if is_op(call.node, "Conv"):
        return _product(call[0], w.reshape(*w.shape[:2], -1), bias)
    groups, strides = attribute_int(call.node, "group", 1), call.node.attributes.get("strides")
    step = 1 if strides is None else math.prod(strides.as_ints())
    grouped = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1).swapaxes(1, 2)
    taps = grouped.reshape(-1, *grouped.shape[2:])
    phases = [_product(call[0], taps[..., i::step], bias) for i in range(min(step, taps.shape[-1]))]
    return either([phase for phase in phases if phase is not None])


def _are_shares(value: ir.Value | None) -> bool:
    """Return whether a value holds shares that add up to 1: of Softmax, or a one-hot row."""
    node = None if value is None else value.producer()
    if node is not None and is_op(node, "Cast") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return is_op(node, "Softmax", "OneHot", "Equal")


def matmul(call: Call) -> Distribution | None:
    """MatMul of shares and rows, with a constant on either side, or of two activations."""
    if _are_shares(call.node.inputs[0]):
        return replace(call[1], source=Source())  # a weighted mean of rows, or one of them
    for index in (1, 0):
        if constant(call.node.inputs[index]) is not None:
            w = call.array(index)
            rows = w if index == 0 or w.ndim == 1 else w.swapaxes(-1, -2)
            return _product(call[1 - index], rows.reshape(-1, rows.shape[-1], 1))
    a, b, n = call[0], call[1], call.length(0, [-1])
    variance = (a.variance + a.mean**2) * (b.variance + b.mean**2) - (a.mean * b.mean) ** 2
    most = n * float(np.abs(a.curve).max() * np.abs(b.curve).max())
    return Distribution(bells(n * a.mean * b.mean, n * variance, -most, most), masked=a.masked or b.masked)


def gemm(call: Call) -> Distribution | None:
    """alpha A B + beta C with constant B and C."""
    w = call.array(1) if attribute_int(call.node, "transB", 0) else call.array(1).T
    alpha, beta = (attribute_float(call.node, name, 1.0) for name in ("alpha", "beta"))
    bias = beta * call.array(2).reshape(-1) if call.has(2) else 0.0
    return _product(call[0], alpha * w.reshape(*w.shape, 1), bias)


def average(call: Call) -> Distribution | None:
    """Means and sums over some elements: the variance that they have in common stays."""
    x, attributes = call[0], call.node.attributes
    axes: Sequence[int] | slice = slice(2 if call.node.op_type.endswith("Pool") else 0, None)
    if "axes" in attributes:
        axes = attributes["axes"].as_ints()
    elif call.has(1):
        axes = call.array(1).astype(int).reshape(-1).tolist()
    kernel = attributes.get("kernel_shape")
    count = math.prod(kernel.as_ints()) if kernel is not None else call.length(0, axes)
    variance = x.variance * (_COMMON + (1.0 - _COMMON) / max(count, 1))
    curve = bells(x.mean, variance, x.curve.min(), x.curve.max())
    return Distribution(curve * (count if is_op(call.node, "ReduceSum") else 1), masked=x.masked)


_MICROSOFT = "com.microsoft::"

BOUNDS: dict[str, tuple[float, float]] = {
    **{op: row.bounds for op, row in OPS.items() if all(map(math.isfinite, row.bounds))},
    **dict.fromkeys(["Erf", "Sin", "Cos", "LpNormalization", "LSTM", "GRU", "RNN"], (-1.0, 1.0)),
}
"""The bounds of the output of an op whatever is fed, for where ROWS determines nothing closer."""

_ELEMENTWISE = (
    "Abs Neg Exp Log Sqrt Reciprocal Erf Sin Cos Atan Sign Floor Ceil Round Pow Softplus Softsign "
    "Sigmoid HardSigmoid Tanh Relu LeakyRelu PRelu Elu Celu Selu Gelu HardSwish Mish Swish "
    "Add Sub Mul Div Max Min Sum"
)

ROWS: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(" "), elementwise),
    **{_MICROSOFT + op: elementwise for op in ("Gelu", "BiasGelu", "FastGelu", "QuickGelu")},
    "Clip": clip,
    **{op: moved for op, row in OPS.items() if row.role is Role.PASS},
    **dict.fromkeys("GatherElements GatherND TopK Upsample Resize ReduceMax ReduceMin".split(" "), moved),
    **dict.fromkeys(["Identity", "Dropout", "Cast"], unmoved),
    **dict.fromkeys(["Pad", "GridSample", "Trilu"], or_zero),
    "Concat": concat,
    "Where": where,
    "LayerNormalization": norm(1, 2),
    "InstanceNormalization": norm(1, 2),
    "GroupNormalization": norm(1, 2),
    "RMSNormalization": norm(1),
    "SimplifiedLayerNormalization": norm(1),
    _MICROSOFT + "SkipLayerNormalization": norm(2, 3),
    _MICROSOFT + "SkipSimplifiedLayerNormalization": norm(2),
    "Conv": conv,
    "ConvTranspose": conv,
    "MatMul": matmul,
    "Gemm": gemm,
    **dict.fromkeys("AveragePool GlobalAveragePool ReduceMean ReduceSum".split(" "), average),
}
"""The rule of each op. The output of an op without a row or a bound is unknown."""

OUTPUTS = {"Split": 2**31, "LSTM": 2, "GRU": 2, "RNN": 2}
"""The number of outputs that the rule of an op holds for, where it is more than the first."""
