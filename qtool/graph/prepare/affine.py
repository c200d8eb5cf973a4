"""Fold constant scales and shifts, one a channel, into the product beside them; BatchNormalization is one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, append_node
from qtool.graph.prepare.channels import (
    CONVOLUTIONS,
    F64,
    PRODUCTS,
    absorb,
    output_channels,
    rescale_inputs,
    rescale_outputs,
)
from qtool.graph.view import (
    attribute_float,
    attribute_int,
    float_constant,
    is_op,
    is_read,
    rank,
    sole_consumer,
)

_OPS = ("Add", "Sub", "Mul", "Div", "BatchNormalization")


def fold_affine(model: ir.Model) -> str:
    """Fold y * scale + shift into the Conv, ConvTranspose, Gemm or MatMul before it, or the one behind it.

    1. Add, Sub, Mul and Div with a constant of one value a channel, and BatchNormalization in inference mode:
       y = gamma (conv(x) - mean) / sqrt(var + eps) + beta (Jacob et al. 2018, eq. 14).
    2. Only where the value between the two has no other consumer.
    3. An Add after a MatMul is its bias. A scale goes through it, into both.
    4. Into a product behind: a BatchNormalization, and before a Conv any but the last factor of a Gelu. A
       convolution that pads takes a scale only: the padding would be shifted, too.
    """
    namer = Namer(model)
    nodes = [n for n in model.graph.all_nodes() if is_op(n, *_OPS)]
    folded = [n.op_type for n in nodes if _into_producer(n, namer) or _into_consumer(n, namer)]
    norms = folded.count("BatchNormalization")
    counts = {"BatchNormalizations": norms, "constant scales and shifts": len(folded) - norms}
    return ", ".join(f"{n} {what} folded into products" for what, n in counts.items() if n)


def _into_producer(node: ir.Node, namer: Namer) -> bool:
    """Fold a node into the product before it, if that gives the same."""
    for data, scale, shift in affine_forms(node):
        before = data.producer()
        if before is None or sole_consumer(data) is not node or before.graph is not node.graph:
            continue
        place = _biased_at(before)
        product = before.inputs[1 - place].producer() if place is not None else before  # type: ignore[union-attr]
        if product is None or not is_op(product, *PRODUCTS):
            continue
        s, t = (_per_channel(v, node, product, data) for v in (scale, shift))
        if s is None or t is None:
            continue
        if place is not None:
            return _through_bias(node, before, place, product, (s, t), namer)
        if not is_op(product, "MatMul"):
            if rescale_outputs(product, s, t, namer):
                absorb(node, data)
                return True
        elif (s != 1).any() and rescale_outputs(product, s, np.zeros_like(t), namer):
            if t.any():
                _make_add(node, data, t, namer)
            else:
                absorb(node, data)
            return True
    return False


def _into_consumer(node: ir.Node, namer: Namer) -> bool:
    """Fold a node into the product after it, if that gives the same."""
    after, graph = sole_consumer(node.outputs[0]), node.graph
    products = PRODUCTS if is_op(node, "BatchNormalization") else ("Conv",)
    if after is None or not is_op(after, *products) or after.inputs[0] is not node.outputs[0]:
        return False
    matmul = is_op(after, "MatMul")
    if after.graph is not graph or not isinstance(graph, ir.Graph) or (matmul and rank(node.outputs[0]) != 2):
        return False  # of more axes, the second is not the one that a MatMul sums over
    for data, *affine in affine_forms(node):
        if completes_gelu(data):
            continue
        if not is_op(node, "BatchNormalization"):
            affine = [vector for v in affine if (vector := channel_vector(v, data)) is not None]
        if len(affine) < 2:
            continue
        scale, shift = affine
        weight = float_constant(after.inputs[1])
        if not rescale_inputs(after, scale, np.zeros_like(shift) if matmul else shift, namer):
            return False
        if matmul and weight is not None:
            bias = add_initializer(graph, namer(f"{after.name}_shift"), (shift @ weight).astype(np.float32))
            append_node(after.outputs[0], "Add", [bias], graph, namer)
        after.replace_input_with(0, data)
        graph.remove(node, safe=True)
        return True
    return False


def completes_gelu(data: ir.Value, steps: int = 3) -> bool:
    """Return whether a value is x (1 + erf(..)) or the like: onnxruntime fuses it with the 0.5 behind."""
    node = data.producer()
    if node is None or is_op(node, "Erf", "Tanh"):
        return node is not None
    return (
        steps > 1
        and is_op(node, "Mul", "Add")
        and any(completes_gelu(v, steps - 1) for v in node.inputs if v is not None)
    )


def channel_vector(array: F64, data: ir.Value) -> F64 | None:
    """Return an array that is applied to a value [N, C, ..] as one number a channel [C]; None for others."""
    channels = data.shape[1] if data.shape is not None and len(data.shape) > 2 else None
    axes = rank(data) or 0
    return _vector(array, axes, 1, channels) if isinstance(channels, int) else None


def affine_forms(node: ir.Node) -> Iterator[tuple[ir.Value, F64, F64]]:
    """Yield a node as data * scale + shift: once for each operand that may be the data."""
    a, b = node.inputs[:2]
    if is_op(node, "BatchNormalization"):
        if a is not None and (folded := statistics(node)) is not None:
            yield a, *folded
        return
    for data, other, swapped in ((a, b, False), (b, a, True)):
        array = float_constant(other)
        if data is None or array is None or not array.size or not np.isfinite(array).all():
            continue
        c = array.astype(np.float64)
        one, zero = np.ones_like(c), np.zeros_like(c)
        match node.op_type:
            case "Add":
                yield data, one, c
            case "Sub":
                yield (data, -one, c) if swapped else (data, one, -c)
            case "Mul":
                yield data, c, zero
            case "Div" if not swapped and c.all():
                yield data, 1 / c, zero


def statistics(node: ir.Node) -> tuple[F64, F64] | None:
    """Return the scale and shift, both [C], of a BatchNormalization with constant, finite statistics."""
    if attribute_int(node, "training_mode", 0) or any(is_read(v) for v in node.outputs[1:]):
        return None
    constants = [float_constant(v) for v in node.inputs[1:5]]
    if any(c is None for c in constants):
        return None
    gamma, beta, mean, var = (np.asarray(c, np.float64) for c in constants)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(var + attribute_float(node, "epsilon", 1e-5))
    shift = beta - mean * scale
    return (scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None


def _biased_at(node: ir.Node) -> int | None:
    """Return which input of a node is the constant bias of a MatMul; None where the node is no such Add."""
    for index, value in enumerate(node.inputs if is_op(node, "Add") else ()):
        other = node.inputs[1 - index]
        if float_constant(value) is None or other is None or not is_op(other.producer(), "MatMul"):
            continue
        producer = other.producer()
        if sole_consumer(other) is node and producer is not None and producer.graph is node.graph:
            return index
    return None


def _through_bias(
    node: ir.Node, add: ir.Node, place: int, product: ir.Node, affine: tuple[F64, F64], namer: Namer
) -> bool:
    """Fold a node behind a MatMul and its bias into both."""
    scale, shift = affine
    bias = float_constant(add.inputs[place])
    vector = None if bias is None else _per_channel(bias.astype(np.float64), add, product, add.outputs[0])
    if bias is None or vector is None or not isinstance(add.graph, ir.Graph):
        return False
    with np.errstate(over="ignore"):
        new = (vector * scale + shift).astype(np.float32)
    if not np.isfinite(new).all() or not rescale_outputs(product, scale, np.zeros_like(shift), namer):
        return False
    shape = (1,) * (bias.ndim - 1) + new.shape
    add.replace_input_with(place, add_initializer(add.graph, namer(f"{add.name}_bias"), new.reshape(shape)))
    absorb(node, add.outputs[0])
    return True


def _make_add(node: ir.Node, data: ir.Value, shift: F64, namer: Namer) -> None:
    """Make an Add of a node whose scale is folded."""
    if isinstance(node.graph, ir.Graph):
        constant = add_initializer(node.graph, namer(f"{node.name}_shift"), shift.astype(np.float32))
        node.op_type = "Add"
        node.attributes.clear()
        node.resize_inputs(2)
        node.replace_input_with(0, data)
        node.replace_input_with(1, constant)


def _per_channel(array: F64, node: ir.Node, product: ir.Node, data: ir.Value) -> F64 | None:
    """Return an array that a node applies to a product's result as one value a channel [C]; else None."""
    weight = float_constant(product.inputs[1])
    if weight is None or weight.ndim < 2:
        return None
    channels = output_channels(product, weight)
    convolution = product.op_type in CONVOLUTIONS
    if is_op(node, "BatchNormalization"):
        by_axis_1 = convolution or product.op_type == "Gemm" or (weight.ndim == 2 and rank(data) == 2)
        return array if by_axis_1 and array.shape == (channels,) else None
    if convolution:
        axes, axis = weight.ndim, 1
    else:
        axes = 2 if product.op_type == "Gemm" else (rank(data) or 1)
        axis = axes - 1
    return None if weight.ndim > (axes if convolution else 2) else _vector(array, axes, axis, channels)


def _vector(array: F64, axes: int, axis: int, channels: int) -> F64 | None:
    """Return an array that broadcasts along one axis only, as [channels]; None for others."""
    if array.ndim > axes:
        return None
    shape = (1,) * (axes - array.ndim) + array.shape
    if shape[axis] not in (1, channels) or any(d != 1 for i, d in enumerate(shape) if i != axis):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,))
