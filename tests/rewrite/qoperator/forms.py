"""Ops between DQs and a Q, written by hand, and the integer operators that they should become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from qtool.graph.save import to_bytes
from qtool.rewrite.qoperator.lower import lower_to_qoperator
from tests.graphs import rng
from tests.rewrite.flow import run

TYPES = {"u8": np.dtype(np.uint8), "s8": np.dtype(np.int8), "u16": np.dtype(np.uint16)}
# Two roundings of one real number: QDQ rounds products and sums in float before, the integers do not.
STEPS = 1
SUM = ("MatMulInteger", "Cast", "Mul")
SUM_BIAS = ("MatMulInteger", "Add", "Cast", "Mul")
TWO = ((2, 8, 9, 9), (2, 8, 9, 9))


@dataclass(frozen=True)
class Op:
    """A float op with activations x0, x1, .. and constants, and what it should become.

    Args:
        shapes: of the activations.
        weight: shape of a weight, quantized through a DQ.
        channels: the weight's axis of output channels.
        bias: an int32 bias behind it.
        constants: other inputs, behind activations and weight.
        same_scale: the result has the scale of the operands.
        alone: nothing quantizes the result.
        standard, contrib: the integer op types wanted; None: it stays float.
        steps: how far from QDQ the result may be.
    """

    op_type: str
    shapes: tuple[tuple[int, ...], ...] = ((2, 8, 9, 9),)
    weight: tuple[int, ...] = ()
    channels: int = 0
    bias: bool = False
    constants: tuple[np.ndarray, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    same_scale: bool = False
    alone: bool = False
    outputs: int = 1
    standard: tuple[str, ...] | None = None
    contrib: tuple[str, ...] | None = None
    steps: int = STEPS
    clamp: tuple[str, ...] = ()
    limits: tuple[float | None, float | None] = (None, None)
    opset: int = 19


@dataclass(frozen=True)
class Types:
    """The types of a graph."""

    act: str = "u8"
    weight: str = "s8"
    per_channel: bool = True


def scale_for(
    x: np.ndarray, dtype: np.dtype[Any], *, symmetric: bool = False
) -> tuple[np.float32, np.generic]:
    """A scale and a zero point at which a few values saturate."""
    lo, hi = min(float(x.min()), 0.0) * 0.95, max(float(x.max()), 0.0) * 0.95
    ends = np.iinfo(dtype)
    if symmetric:
        return np.float32(max(-lo, hi) / ends.max), dtype.type(0)
    scale = np.float32((hi - lo) / (ends.max - ends.min))
    return scale, dtype.type(np.clip(round(ends.min - lo / float(scale)), ends.min, ends.max))


class Graph:
    """A QDQ graph in the making, as rewrite/qdq.py would write it."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        self.nodes.append(
            helper.make_node(op, list(inputs), list(outputs), name=f"{op}_{outputs[0]}", **attributes)
        )
        return outputs[0]

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def q_dq(self, name: str, scale: np.generic, zero: np.generic) -> str:
        params = [self.constant(f"{name}_scale", scale), self.constant(f"{name}_zero_point", zero)]
        self.add("QuantizeLinear", [name, *params], [f"{name}_quantized"])
        return self.add("DequantizeLinear", [f"{name}_quantized", *params], [f"{name}_dequantized"])

    def dq(self, name: str, integers: np.ndarray, scale: Any, zero: Any | None, axis: int | None) -> str:
        inputs = [
            self.constant(f"{name}_quantized", integers),
            self.constant(f"{name}_scale", np.float32(scale)),
        ]
        if zero is not None:
            inputs.append(self.constant(f"{name}_zero_point", zero))
        attributes = {} if axis is None else {"axis": axis}
        return self.add("DequantizeLinear", inputs, [f"{name}_dequantized"], **attributes)

    def model(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> onnx.ModelProto:
        def info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )

        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [info(k, v) for k, v in inputs.items()],
            [onnx.ValueInfoProto(name=k) for k in outputs],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
        onnx.checker.check_model(made, full_check=True)
        return made


def build(op: Op, types: Types) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, float]]:
    """The QDQ graph of an op, a sample, and the size of a step of each output (0: in floats)."""
    random, act = rng(7), TYPES[types.act]
    graph = Graph(op.opset)
    sample = {f"x{i}": random.standard_normal(s).astype(np.float32) for i, s in enumerate(op.shapes)}
    inputs, scales = [], []
    for name, array in sample.items():
        shared = scales[0] if scales and op.same_scale else scale_for(array, act)
        scales.append(shared)
        inputs.append(graph.q_dq(name, *shared))
    bias = []
    if op.weight:
        bias = [add_weight(graph, op, types, scales[0][0], inputs)]
    inputs += [graph.constant(f"c{i}", c) if c is not None else "" for i, c in enumerate(op.constants)]
    if op.bias and op.op_type != "MatMul":
        inputs += bias
    outs = [f"f{i}" for i in range(op.outputs)]
    graph.add(op.op_type, _ordered(op, inputs), outs, **op.attributes)
    if op.bias and op.op_type == "MatMul":
        outs = [graph.add("Add", [*bias, "f0"], ["sum"])]
    for clamp in op.clamp:
        limits = [
            graph.constant(f"limit{i}", np.float32(v)) if v is not None else ""
            for i, v in enumerate(op.limits)
        ]
        outs = [graph.add(clamp, [outs[0], *(limits if clamp == "Clip" else [])], ["clamped"])]
    floats = run(graph.model(sample, outs), [sample], optimize=False)[0]
    if op.alone:
        return graph.model(sample, outs), sample, dict.fromkeys(outs, 0.0)
    steps = {}
    for out in outs:
        if floats[out].dtype == np.float32:
            scale, zero = (
                scales[0]
                if op.same_scale
                else scale_for(floats[out], act, symmetric=types.act == "s8" and bool(op.clamp))
            )
            steps[graph.q_dq(out, scale, zero)] = float(scale)
    return graph.model(sample, list(steps)), sample, steps


def _ordered(op: Op, inputs: list[str]) -> list[str]:
    """Where's condition comes before its operands."""
    return [inputs[-1], *inputs[:-1]] if op.op_type == "Where" else inputs


def add_weight(graph: Graph, op: Op, types: Types, x_scale: np.generic, inputs: list[str]) -> str:
    """Append the weight's DQ to the inputs; the name of the bias's."""
    random, dtype = rng(3), TYPES[types.weight]
    middle = 128 if dtype.kind == "u" else 0
    count = op.weight[op.channels]
    shape, axis = ((count,), op.channels) if types.per_channel else ((), None)
    # u8 x s8 of more than 7 bits saturates on a CPU without VNNI (tests/exact.py).
    reach = 63 if (types.act, types.weight) == ("u8", "s8") else 127
    w = (random.integers(-reach, reach + 1, op.weight) + middle).astype(dtype)
    scale = random.uniform(0.001, 0.003, shape).astype(np.float32)
    inputs.append(graph.dq("w", w, scale, np.full(shape, middle, dtype), axis))
    if not op.bias:
        return ""
    b = random.integers(-9000, 9000, count).astype(np.int32)
    return graph.dq("b", b, np.float32(x_scale) * scale, None, 0 if types.per_channel else None)


def fuse(proto: onnx.ModelProto, contrib: bool) -> onnx.ModelProto:
    """The model with integer operators, as a file would hold it."""
    model = ir.from_proto(onnx.ModelProto.FromString(proto.SerializeToString()))
    lower_to_qoperator(model, contrib)
    made = onnx.load_from_string(to_bytes(model))
    onnx.checker.check_model(made, full_check=True)
    return made


CONV = Op(
    "Conv", weight=(6, 8, 3, 3), bias=True, attributes={"pads": [1, 1, 1, 1]}, standard=("QLinearConv",)
)


MATMUL = Op("MatMul", ((3, 5, 16),), (16, 12), 1, standard=("QLinearMatMul",))
GEMM = Op(
    "Gemm",
    ((5, 16),),
    (16, 12),
    1,
    bias=True,
    standard=("MatMulInteger", "Add", "Cast", "Mul"),
    contrib=("QGemm",),
)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


WEIGHTED = {
    "conv": CONV,
    "conv-no-bias": replace(CONV, bias=False),
    "conv-strided-same": replace(CONV, attributes={"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "conv-dilated": replace(CONV, attributes={"dilations": [2, 2], "kernel_shape": [3, 3]}),
    "conv-depthwise": replace(CONV, weight=(8, 1, 3, 3), attributes={"group": 8}),
    "conv-grouped": replace(CONV, weight=(8, 4, 3, 3), attributes={"group": 2}),
    "conv-1x1": replace(CONV, weight=(6, 8, 1, 1), attributes={}),
    "conv-1d": replace(CONV, shapes=((2, 8, 20),), weight=(6, 8, 3), attributes={}),
    "conv-3d": replace(CONV, shapes=((1, 4, 5, 5, 5),), weight=(6, 4, 3, 3, 3), attributes={}),
    "conv-one-channel": replace(CONV, weight=(1, 8, 3, 3), attributes={}),
    "conv-relu": replace(CONV, clamp=("Relu",)),
    "conv-relu6": replace(CONV, clamp=("Clip",), limits=(0.0, 6.0)),
    "conv-clip-inside": replace(CONV, clamp=("Clip",), limits=(-0.3, 0.7)),
    "conv-clip-below": replace(CONV, clamp=("Clip",), limits=(None, 0.5)),
    "matmul": MATMUL,
    "matmul-2d": replace(MATMUL, shapes=((5, 16),)),
    "matmul-1d": replace(MATMUL, shapes=((16,),)),
    "matmul-relu": replace(MATMUL, clamp=("Relu",)),
    "matmul-opset-21": replace(MATMUL, opset=21),
    "matmul-float-out": replace(MATMUL, alone=True, standard=SUM, contrib=("MatMulIntegerToFloat",)),
    "matmul-bias-float-out": replace(MATMUL, shapes=((5, 16),), bias=True, alone=True, standard=SUM_BIAS, contrib=("QGemm",)),
    "matmul-bias": replace(MATMUL, shapes=((5, 16),), bias=True, standard=SUM_BIAS, contrib=("QGemm",)),
    "matmul-bias-3d": replace(MATMUL, bias=True, standard=SUM_BIAS, contrib=SUM_BIAS),
    "gemm": GEMM,
    "gemm-transposed": replace(GEMM, weight=(12, 16), channels=0, attributes={"transB": 1}),
    "gemm-no-bias": replace(GEMM, bias=False, standard=("QLinearMatMul",)),
    "gemm-transposed-no-bias": replace(GEMM, weight=(12, 16), channels=0, bias=False, attributes={"transB": 1}, standard=("QLinearMatMul",)),
    "gemm-relu": replace(GEMM, clamp=("Relu",)),
    "gemm-float-out": replace(GEMM, alone=True),
    "gemm-float-out-no-bias": replace(GEMM, alone=True, bias=False, standard=SUM),
}  # fmt: skip


UNWEIGHTED = {
    "matmul-activations": Op("MatMul", ((2, 5, 16), (2, 16, 7)), standard=("QLinearMatMul",)),
    "matmul-activations-float-out": Op("MatMul", ((2, 5, 16), (2, 16, 7)), alone=True, standard=SUM, contrib=("MatMulIntegerToFloat",)),
    "add": Op("Add", TWO, contrib=("QLinearAdd",)),
    "add-broadcast": Op("Add", ((2, 8, 9, 9), (8, 1, 1)), contrib=("QLinearAdd",)),
    "add-relu": Op("Add", TWO, clamp=("Relu",), contrib=("QLinearAdd",)),
    "mul": Op("Mul", TWO, contrib=("QLinearMul",)),
    "mul-broadcast": Op("Mul", ((2, 8, 9, 9), (2, 8, 1, 1)), contrib=("QLinearMul",)),
    "sigmoid": Op("Sigmoid", contrib=("QLinearSigmoid",)),
    "leaky-relu": Op("LeakyRelu", attributes={"alpha": 0.2}, contrib=("QLinearLeakyRelu",)),
    "leaky-relu-default": Op("LeakyRelu", contrib=("QLinearLeakyRelu",)),
    "softmax": Op("Softmax", ((2, 5, 12),), contrib=("QLinearSoftmax",)),
    "softmax-axis-1": Op("Softmax", ((2, 5, 12),), attributes={"axis": 1}, contrib=("QLinearSoftmax",)),
    "softmax-wide": Op("Softmax", ((2, 1000),), contrib=("QLinearSoftmax",)),
    "global-average-pool-large": Op("GlobalAveragePool", ((1, 4, 60, 60),), contrib=("QLinearGlobalAveragePool",)),
    "global-average-pool": Op("GlobalAveragePool", contrib=("QLinearGlobalAveragePool",)),
    "average-pool": Op("AveragePool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, contrib=("QLinearAveragePool",)),
    "average-pool-with-pads": Op("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, contrib=("QLinearAveragePool",)),
    "average-pool-ceil": Op("AveragePool", attributes={"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, contrib=("QLinearAveragePool",)),
    "concat-of-two-scales": Op("Concat", TWO, attributes={"axis": 1}, contrib=("QLinearConcat",)),
    "where-of-two-scales": Op("Where", TWO, constants=(rng(1).random((2, 8, 9, 9)) > 0.5,), contrib=("QLinearWhere",)),
}  # fmt: skip


MOVED = {
    "max-pool": Op("MaxPool", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "max-pool-1d": Op("MaxPool", ((2, 8, 20),), attributes={"kernel_shape": [2]}),
    "max-pool-opset-12-dilated": Op("MaxPool", attributes={"kernel_shape": [3, 3], "dilations": [2, 2], "ceil_mode": 1}),
    "max-pool-opset-22": Op("MaxPool", attributes={"kernel_shape": [3, 3]}, opset=22),
    "transpose": Op("Transpose", attributes={"perm": [0, 2, 3, 1]}),
    "reshape": Op("Reshape", constants=(i64(2, -1),)),
    "flatten": Op("Flatten"),
    "squeeze": Op("Squeeze", ((2, 1, 5),), constants=(i64(1),)),
    "unsqueeze": Op("Unsqueeze", constants=(i64(1),)),
    "slice": Op("Slice", constants=(i64(1, 2), i64(5, 8), i64(1, 2))),
    "split": Op("Split", constants=(i64(3, 5),), attributes={"axis": 1}, outputs=2),
    "split-opset-13": Op("Split", attributes={"axis": 1}, outputs=2, opset=13),
    "split-counted": Op("Split", attributes={"axis": 1, "num_outputs": 2}, outputs=2),
    "gather": Op("Gather", constants=(i64(0, 1, 1),)),
    "expand": Op("Expand", ((1, 8),), constants=(i64(5, 8),)),
    "tile": Op("Tile", ((2, 3),), constants=(i64(2, 2),)),
    "depth-to-space": Op("DepthToSpace", attributes={"blocksize": 2}),
    "depth-to-space-crd": Op("DepthToSpace", attributes={"blocksize": 2, "mode": "CRD"}),
    "space-to-depth": Op("SpaceToDepth", ((1, 3, 4, 4),), attributes={"blocksize": 2}),
    "identity": Op("Identity"),
    "concat": Op("Concat", TWO, attributes={"axis": 1}),
    "where": Op("Where", TWO, constants=(rng(1).random((2, 8, 9, 9)) > 0.5,)),
    "pad": Op("Pad", constants=(i64(0, 0, 1, 1, 0, 0, 2, 0),)),
    "pad-value": Op("Pad", constants=(i64(0, 0, 1, 1, 0, 0, 2, 0), np.float32(0.37))),
    "pad-reflect": Op("Pad", constants=(i64(0, 0, 1, 1, 0, 0, 2, 0),), attributes={"mode": "reflect"}),
    "resize-nearest": Op("Resize", constants=(np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32))),
    "relu": Op("Relu"),
    "clip": Op("Clip", constants=(np.float32(-0.4), np.float32(0.9))),
}  # fmt: skip


ALL = {
    **WEIGHTED,
    **UNWEIGHTED,
    **{
        k: replace(v, same_scale=True, standard=(v.op_type,) if v.op_type != "Relu" else ("Clip",), steps=0)
        for k, v in MOVED.items()
    },
}
