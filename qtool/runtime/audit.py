"""The kernels that onnxruntime makes of a model when it opens it, and whether they compute in integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

# Kernels between int8 and float belong to no node: their time depends on the forms around them, and is looked
# up (plan/kernel_costs.py).
EDGES = frozenset({"QuantizeLinear", "DequantizeLinear"})
CONVERSIONS = EDGES | {"DynamicQuantizeLinear", "Cast"}
# Kernels that only change a layout are not named after a node: they belong to the node before or after them.
LAYOUT = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
_INTEGERS = frozenset(
    {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
    | {TensorProto.INT2, TensorProto.UINT2, TensorProto.INT16, TensorProto.UINT16}
)
# Kernel -> the index of the scale of its weight.
_WEIGHT_SCALE = {
    "QLinearConv": 4,
    "QLinearMatMul": 4,
    "QGemm": 4,
    "MatMulIntegerToFloat": 3,
    "DynamicQuantizeMatMul": 2,
}
# QGemm's result is integers where it has a scale.
_RESULT_SCALE = {"QGemm": 7}
# Kernel -> the index of its output of floats, beside outputs of integers.
_FLOAT_OUTPUT = {"DynamicQuantizeLinear": 1}
_FLOAT_RESULT = frozenset(
    "DequantizeLinear MatMulIntegerToFloat DynamicQuantizeMatMul DynamicQuantizeLSTM MatMulNBits Cast "
    "QMoE MatMulInteger ConvInteger GatherBlockQuantized".split()
)


@dataclass(frozen=True)
class Kernel:
    """A node of the runtime's graph.

    Args:
        name, op: as the runtime names them.
        inputs, outputs: names of values.
        integer: it reads integers of up to 16 bits, or makes them.
        weight_scales: number of scales of its weight; None where it has no such weight.
        converted: constants of integers among its inputs.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integer: bool
    weight_scales: int | None
    converted: tuple[str, ...]


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """Return the kernels in a file that `Session(optimized=...)` wrote, nested graphs included.

    Its tensors may be in another file, and its operators may be unknown to any checker. The runtime writes no
    types of values: those of integers follow from the constants and the kernels.
    """
    graph = onnx.ModelProto.FromString(path.read_bytes()).graph
    return tuple(_kernels(graph, {}, set()))


def _kernels(graph: onnx.GraphProto, constants: Mapping[str, int], integers: set[str]) -> Iterator[Kernel]:
    """Yield the kernels of a graph.

    Args:
        graph: with its nodes in the order in which they run.
        constants: constant of the graphs around it -> the number of its elements.
        integers: the values of integers known so far; those of this graph are added.
    """
    constants = {**constants, **{t.name: math.prod(t.dims) for t in graph.initializer}}
    integers.update(t.name for t in graph.initializer if t.data_type in _INTEGERS)
    integers.update(v.name for v in graph.input if v.type.tensor_type.elem_type in _INTEGERS)
    for node in graph.node:
        reads = any(name in integers for name in node.input)
        if _makes_integers(node, integers):
            floats = _FLOAT_OUTPUT.get(node.op_type)
            integers.update(name for index, name in enumerate(node.output) if index != floats)
        scale = _WEIGHT_SCALE.get(node.op_type)
        yield Kernel(
            node.name,
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            reads or any(name in integers for name in node.output),
            None if scale is None or scale >= len(node.input) else constants.get(node.input[scale]),
            tuple(n for n in node.input if n in constants and n in integers),
        )
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _kernels(inner, constants, integers)


def _makes_integers(node: onnx.NodeProto, integers: set[str]) -> bool:
    if node.op_type in _FLOAT_RESULT:
        return False
    if node.op_type in _RESULT_SCALE:
        return len(node.input) > _RESULT_SCALE[node.op_type] and bool(node.input[_RESULT_SCALE[node.op_type]])
    if node.op_type.startswith("QLinear") or node.op_type in CONVERSIONS:
        return True
    return bool(node.input) and node.input[0] in integers  # what moves values keeps their type


def owner_of(name: str, owners: Mapping[str, str]) -> str | None:
    """Return the owner of the longest name that a kernel's begins with and that ends at the end of a word.

    The runtime names a fused kernel after the last node or output of the fusion, with a suffix of its own (in
    1.31: '_nchwc', '_token_12', '_quant').

    Args:
        name: of a kernel, or of a value.
        owners: names of nodes and of their outputs -> the node.
    """
    name = name.removeprefix("fused ")
    for end in range(len(name), 0, -1):
        part = name[:end]
        if part in owners and (end == len(name) or not name[end].isalnum()):
            return owners[part]
    return None
