"""The layers of a language model that lose most in few bits, by a rule of thumb.

They are those that llama.cpp gives more bits in its mixed types (Q4_K_M): the projection to the vocabulary,
and some of the projections down from the inner width of a block; here the first and the last block, too. What
a model really loses is measured where there are samples (placement/bit_allocation.py).
"""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.features import features_of
from qtool.graph.view import View, is_op
from qtool.plan.eligible import channel_axis, rule_of
from qtool.plan.scheme import Scheme
from qtool.tables.modes import FEW_BITS
from qtool.tables.qtypes import INT8, QType

# Fewer blocks than this have no first and last one to keep apart from others.
_LEAST_BLOCKS = 4
_PRODUCTS = ("MatMul", "Gemm")
_LANGUAGE_MODEL = frozenset({"tokens", "attention", "vocabulary"})


def sensitive_types(view: View, scheme: Scheme) -> dict[str, QType]:
    """Return node -> 8 bits, for the sensitive products of a language model whose weights have few bits."""
    if scheme.storage not in FEW_BITS:
        return {}
    nodes: tuple[str, ...] = view.once("sensitive layers", lambda: tuple(sensitive_products(view)))
    return dict.fromkeys(nodes, INT8)


def sensitive_products(view: View) -> list[str]:
    """Return the names of the sensitive products of a language model; none of other models."""
    if not features_of(view.model) >= _LANGUAGE_MODEL:
        return []
    tables = (_constant_shape(node.inputs[0]) for node in view.main_nodes if is_op(node, "Gather"))
    rows, width = max((shape for shape in tables if shape is not None), default=(0, 0))
    products = [node for node in view.main_nodes if is_op(node, *_PRODUCTS) and _size(node) is not None]
    heads = [node for node in products if _size(node) == (width, rows)]
    inner = [node for node in products if node not in heads]
    downs = [node for node in inner if _is_down(node, width)]
    chosen = {*heads, *(node for i, node in enumerate(downs) if _has_more_bits(i, len(downs)))}
    if len(downs) >= _LEAST_BLOCKS:
        first, before_last = (inner.index(node) for node in (downs[0], downs[-2]))
        chosen |= {*inner[: first + 1], *inner[before_last + 1 :]}
    return [node.name or "" for node in products if node in chosen]


def _has_more_bits(number: int, count: int) -> bool:
    """Whether the down projection of a block has more bits: those at both ends, and every third between.

    As `use_more_bits` of llama.cpp (src/llama-quant.cpp).
    """
    eighth = count // 8
    return number < eighth or number >= 7 * count // 8 or (number - eighth) % 3 == 2


def _is_down(node: ir.Node, width: int) -> bool:
    """Whether a product goes from an inner width back to that of the model, and is not behind attention."""
    size = _size(node)
    if size is None or size[1] != width or size[0] == width:
        return False
    visited, waiting = set[int](), [node.inputs[0]]
    while waiting:
        value = waiting.pop()
        source = None if value is None else value.producer()
        if source is None or id(source) in visited:
            continue
        visited.add(id(source))
        if "Attention" in source.op_type:
            return False
        if is_op(source, *_PRODUCTS):
            if _size(source) is None:  # the product of two activations: attention itself
                return False
            continue
        waiting += source.inputs
    return True


def _size(node: ir.Node) -> tuple[int, int] | None:
    """The values that a product sums over, and its channels; None without a constant matrix."""
    rule, shape = rule_of(node), _constant_shape(node.inputs[1])
    if rule is None or shape is None:
        return None
    axis = channel_axis(node, rule, 2)
    return shape[1 - axis], shape[axis]


def _constant_shape(value: ir.Value | None) -> tuple[int, int] | None:
    """The shape of a constant matrix, without reading it."""
    if value is None or value.const_value is None:
        return None
    dims = value.const_value.shape.numpy()
    return (dims[0], dims[1]) if len(dims) == 2 else None
