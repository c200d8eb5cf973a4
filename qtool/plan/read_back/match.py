"""Match the nodes of a quantized model with those of the FP32 model: by name, by result, by weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import View, float_constant
from qtool.plan.model import Kind
from qtool.plan.read_back.inputs import QuantizedInput

# What tools append to the names of nodes and values that they quantize.
_SUFFIXES = (
    "_quant", "_quantized", "_QuantizeLinear_Input", "_output_quantized", "_MatMul", "_Q8", "_Q4",
    "_8bits", "_4bits", "_2bits", "_output", "_0",
)  # fmt: skip
_ADDED = ("_scale_mul", "_output_cast", "_whole", "_float", "_raw")
# Correlation of a weight with its quantized form: of 2 bits 0.9, of another weight near 0.
_SAME, _PERHAPS = 0.8, 0.3


def match_nodes(view: View, inputs: Sequence[QuantizedInput]) -> dict[str, str]:
    """Return node of the quantized model -> node of the FP32 model.

    A name counts only where it does not contradict a weight. Weights are compared whatever their scale is.

    Args:
        view: of the FP32 model.
        inputs: what the quantized model's nodes read quantized.
    """
    nodes: dict[str, list[QuantizedInput]] = {}
    for each in inputs:
        if each.node is not None:
            nodes.setdefault(each.node.name or "", []).append(each)
    pairs: dict[str, str] = {}
    for name, own in nodes.items():
        near = next((n for n in _candidates(own, view) if _fits(view.node_by_name[n], own, _PERHAPS)), None)
        if near is not None:
            pairs[name] = near
    taken = set(pairs.values())
    rest = [n for n in view.nodes if n.name not in taken]
    for name, own in nodes.items():
        if name in pairs or not any(i.kind is Kind.WEIGHT for i in own):
            continue
        near = next((n.name for n in rest if n.name not in taken and _fits(n, own, _SAME)), None)
        if near is not None:
            pairs[name] = near
            taken.add(near)
    return pairs


def oriented(array: NDArray[np.float32], like: NDArray[np.float32]) -> tuple[bool, float]:
    """Return whether a weight is the transpose of another, and their correlation; 0 for other shapes."""
    best = False, 0.0
    if array.shape == like.shape:
        best = False, _correlation(array, like)
    if array.ndim >= 2 and np.swapaxes(array, -1, -2).shape == like.shape:
        best = max(best, (True, _correlation(np.swapaxes(array, -1, -2), like)), key=lambda b: b[1])
    return best


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    norm = float(np.linalg.norm(a.reshape(-1)) * np.linalg.norm(b.reshape(-1)))
    return float(np.vdot(a.reshape(-1), b.reshape(-1)) / norm) if norm > 0 else 0.0


def _candidates(own: Sequence[QuantizedInput], view: View) -> Iterable[str]:
    """Yield the FP32 nodes that have the name of a quantized one, or a result of its name."""
    node = own[0].node
    if node is None:
        return
    producers = {v.name: n.name or "" for n in view.nodes for v in n.outputs}
    for name in _stripped(node.name or ""):
        if name in view.node_by_name:
            yield name
    for value in node.outputs:
        for name in _stripped(value.name or ""):
            if name in producers:
                yield producers[name]


def _stripped(name: str) -> Iterable[str]:
    """Yield a name, and what is left of it without suffixes."""
    yield name
    for suffix in (*_SUFFIXES, *_ADDED):
        if name.endswith(suffix):
            yield from _stripped(name.removesuffix(suffix))


def _fits(node: ir.Node, own: Sequence[QuantizedInput], least: float) -> bool:
    """Whether the weights of a quantized node are those of an FP32 node, and its inputs are there."""
    for each in own:
        value = node.inputs[each.index] if each.index < len(node.inputs) else None
        if value is None and each.kind is Kind.BIAS:
            continue  # of a Gemm that a tool made of a MatMul and an Add
        if value is None:
            return False
        if each.stored is not None and each.kind is Kind.WEIGHT:
            array = float_constant(value)
            if array is None or oriented(each.stored.array, array)[1] < least:
                return False
    return True


def unmatched(inputs: Sequence[QuantizedInput], pairs: Mapping[str, str]) -> tuple[str, ...]:
    """Return the nodes with quantized inputs that have no counterpart."""
    names = (each.node.name or "" for each in inputs if each.node is not None)
    return tuple(dict.fromkeys(name for name in names if name not in pairs))
