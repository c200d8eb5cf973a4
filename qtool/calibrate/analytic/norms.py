"""Normalizations: what comes out of them is known from their own constants, whatever goes in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from qtool.calibrate.analytic.call import Call, Dims, dims, numbers
from qtool.calibrate.analytic.combine import ADD, MULTIPLY
from qtool.calibrate.analytic.curves import applied
from qtool.calibrate.analytic.nodes import F64
from qtool.calibrate.analytic.spread import STATISTICS, Spread, around, constant_spread, spread, unknown
from qtool.graph.view import attribute_float, attribute_int, constant, is_op

_UNKNOWN_LENGTH = 64


@dataclass(frozen=True)
class Statistics:
    """The constants of a BatchNormalization, [C] each."""

    gamma: F64
    beta: F64
    mean: F64
    variance: F64
    epsilon: float


def statistics(node: ir.Node) -> Statistics | None:
    """What a BatchNormalization in inference mode knows; None where it is computed."""
    arrays = [numbers(constant(v)) for v in node.inputs[1:5]]
    found = [a for a in arrays if a is not None]
    if attribute_int(node, "training_mode", 0) or len(found) != 4:
        return None
    gamma, beta, mean, variance = found
    return Statistics(gamma, beta, mean, variance, attribute_float(node, "epsilon", 1e-5))


def normalized_inputs(graph: ir.Graph) -> Iterator[tuple[str, Spread]]:
    """Values that a BatchNormalization reads: it was trained with their means and variances."""
    for node in graph:
        value = node.inputs[0] if is_op(node, "BatchNormalization") else None
        found = statistics(node) if value is not None else None
        shape = dims(value)
        if value is None or found is None or shape is None or len(shape) < 2:
            continue
        mean, variance = (a.reshape(-1, *(1,) * (len(shape) - 2)) for a in (found.mean, found.variance))
        yield value.name or "", around(mean, variance, basis=STATISTICS)


def batch_norm(call: Call) -> list[Spread]:
    """gamma z + beta a channel (Nagel et al. 2019, section 4.2), within what the input can be."""
    found, rank = statistics(call.node), call.rank()
    others = [unknown()] * (len(call.node.outputs) - 1)
    if found is None or rank is None or rank < 2:
        return [unknown(), *others]
    shape = (-1, *(1,) * (rank - 2))
    scale = (found.gamma / np.sqrt(found.variance + found.epsilon)).reshape(shape)
    shift = found.beta.reshape(shape) - found.mean.reshape(shape) * scale
    through = scaled(call[0], scale, shift)
    variance = scale**2 * found.variance.reshape(shape)
    made = around(found.beta.reshape(shape), variance, through.lo, through.hi, STATISTICS)
    return [made, *others]


def standard(count: int | None, *, centered: bool = True) -> Spread:
    """What a norm over `count` elements makes before its own scale: none is beyond sqrt(count).

    The squares of the elements add up to their number at most; epsilon only takes from that.
    """
    most = math.sqrt(max(count - 1 if centered else count, 0)) if count else math.inf
    return around(np.zeros(()), np.ones(()), -most, most, STATISTICS)


def scaled(z: Spread, gamma: F64 | None, beta: F64 | None = None) -> Spread:
    """gamma z + beta."""
    made = z if gamma is None else MULTIPLY.of(z, constant_spread(gamma))
    return made if beta is None else ADD.of(made, constant_spread(beta))


def _constants(call: Call, *indices: int) -> list[F64 | None]:
    """Constant inputs; None for one that is left out.

    Raises:
        ValueError: one is computed.
    """
    found = [call.constant(i) if call.has(i) else None for i in indices]
    if any(f is None and call.has(i) for f, i in zip(found, indices, strict=True)):
        raise ValueError("a norm's scale is computed")
    return found


def _count(shape: Dims | None, axis: int) -> int | None:
    """How many elements lie along an axis and those behind it."""
    if shape is None:
        return None
    sizes = [d for d in shape[axis:] if d is not None]
    return math.prod(sizes) if len(sizes) == len(shape[axis:]) else None


def layer_norm(call: Call) -> list[Spread]:
    """LayerNormalization: its other outputs, mean and deviation, are not known."""
    gamma, beta = _constants(call, 1, 2)
    made = scaled(standard(_count(call.dims(), call.whole("axis", -1))), gamma, beta)
    return [made, *[unknown()] * (len(call.node.outputs) - 1)]


def rms_norm(call: Call) -> list[Spread]:
    """RMSNormalization, SimplifiedLayerNormalization: no mean is taken off."""
    (gamma,) = _constants(call, 1)
    z = standard(_count(call.dims(), call.whole("axis", -1)), centered=False)
    return [scaled(z, gamma), *[unknown()] * (len(call.node.outputs) - 1)]


def skip_norm(call: Call) -> list[Spread]:
    """com.microsoft SkipLayerNormalization: the norm of a sum, which may be an output of its own."""
    simplified = call.node.op_type.startswith("SkipSimplified")
    gamma, *beta = _constants(call, 2) if simplified else _constants(call, 2, 3)
    made = scaled(standard(_count(call.dims(), -1), centered=not simplified), gamma, *beta)
    total = ADD.of(call[0], call[1])
    return [made, *[unknown()] * 2, total][: len(call.node.outputs)] if len(call.node.outputs) > 3 else [made]


def instance_norm(call: Call) -> Spread:
    """InstanceNormalization: a channel over its positions."""
    gamma, beta = _constants(call, 1, 2)
    rank = call.rank()
    if rank is None or gamma is None or beta is None:
        return unknown()
    shape = (-1, *(1,) * (rank - 2))
    return scaled(standard(_count(call.dims(), 2)), gamma.reshape(shape), beta.reshape(shape))


def group_norm(call: Call) -> Spread:
    """GroupNormalization: the scale is a channel's, or until opset 20 a group's."""
    gamma, beta = _constants(call, 1, 2)
    shape, groups = call.dims(), call.whole("num_groups", 1)
    if shape is None or gamma is None or beta is None:
        return unknown()
    channels = shape[1]
    if channels is not None and gamma.size == groups:
        gamma, beta = (np.repeat(a, channels // groups) for a in (gamma, beta))
    elements = _count(shape, 1)
    column = (-1, *(1,) * (len(shape) - 2))
    z = standard(None if elements is None else elements // groups)
    return scaled(z, gamma.reshape(column), beta.reshape(column))


def lp_norm(call: Call) -> Spread:
    """LpNormalization: no element is beyond 1."""
    shape = call.dims()
    n = None if shape is None else shape[call.whole("axis", -1)]
    made = applied(lambda x: x / math.sqrt(n or _UNKNOWN_LENGTH), standard(n, centered=False))
    return spread(made.values, -1.0, 1.0, STATISTICS)


def local_response(call: Call) -> Spread:
    """LRN divides by at least bias^beta."""
    least = max(call.real("bias", 1.0), 0.0) ** call.real("beta", 0.75)
    if not least:
        return unknown()
    made = applied(lambda x: x / least, call[0])
    return replace(made, lo=np.minimum(made.lo, 0.0), hi=np.maximum(made.hi, 0.0))
