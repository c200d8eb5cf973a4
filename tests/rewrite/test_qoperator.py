"""Integer operators against the QDQ form that they replace, form by form and on whole models."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product as product_types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qtool.errors import ModelError
from qtool.graph.save import to_bytes
from qtool.rewrite.qoperator.lower import lower_to_qoperator
from qtool.runtime.session import Session
from qtool.tables.ops import OPS, Role
from qtool.tables.qoperators import (
    ELEMENTWISE,
    MATMUL_INTEGER,
    MATMUL_INTEGER_TO_FLOAT,
    MICROSOFT,
    MOVES,
    Q_GEMM,
    QLINEAR_CONV,
    QLINEAR_MATMUL,
    Product,
)
from tests.exact import exact
from tests.graphs import SAMPLE_MODELS, SHARED_MODELS, rng, weights
from tests.rewrite.flow import FIRST_REFERENCE_OPSET, run, sqnr, write
from tests.rewrite.zoo import CASES
from tests.tiers import in_turn, nightly

TYPES = {"u8": np.dtype(np.uint8), "s8": np.dtype(np.int8), "u16": np.dtype(np.uint16)}
# Two roundings of one real number: QDQ rounds products and sums in float before, the integers do not.
STEPS = 1
INTEGERS = frozenset("QLinearConv QLinearMatMul MatMulInteger MatMulIntegerToFloat QGemm".split())


# ---- one op between DQs and a Q, written by hand ----


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
        bias = [_weight(graph, op, types, scales[0][0], inputs)]
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


def _weight(graph: Graph, op: Op, types: Types, x_scale: np.generic, inputs: list[str]) -> str:
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


def evaluate(proto: onnx.ModelProto, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs in onnx's reference implementation."""
    evaluator = ReferenceEvaluator(proto)
    return dict(zip(evaluator.output_names, evaluator.run(None, sample), strict=True))


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
SUM = ("MatMulInteger", "Cast", "Mul")
SUM_BIAS = ("MatMulInteger", "Add", "Cast", "Mul")
TWO = ((2, 8, 9, 9), (2, 8, 9, 9))


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
PAIRS = {"u8-s8": ("u8", "s8"), "u8-u8": ("u8", "u8"), "s8-s8": ("s8", "s8"), "s8-u8": ("s8", "u8")}
# Each form with each pair of types, and a scale a channel or one for all in turn.
KEYS = [
    *(
        (name, Types(a, w, c))
        for name, (a, w), c in in_turn(product_types(WEIGHTED, PAIRS.values()), (True, False))
    ),
    *((name, Types(a)) for name, a in in_turn((*UNWEIGHTED, *MOVED), ("u8", "s8"))),
]


def label(key: tuple[str, Types]) -> str:
    name, types = key
    granularity = ["-tensor", "-channel"][types.per_channel] if name in WEIGHTED else ""
    return f"{name}-{types.act}{'-' + types.weight if name in WEIGHTED else ''}{granularity}"


@dataclass(frozen=True)
class Fused:
    """One op, in both forms."""

    op: Op
    types: Types
    contrib: bool
    qdq: onnx.ModelProto
    proto: onnx.ModelProto
    sample: dict[str, np.ndarray]
    steps: dict[str, float]

    def wanted(self) -> tuple[str, ...] | None:
        expected = self.op.contrib if self.contrib and self.op.contrib is not None else self.op.standard
        odd = (self.types.act, self.types.weight) == ("s8", "u8") and self.op.weight
        if not odd:
            return expected
        if self.op.op_type == "Conv":
            return None
        return SUM_BIAS if self.op.bias else SUM


def fused(name: str, types: Types, contrib: bool) -> Fused:
    qdq, sample, steps = build(ALL[name], types)
    return Fused(ALL[name], types, contrib, qdq, fuse(qdq, contrib), sample, steps)


@pytest.mark.parametrize("key", KEYS, ids=label)
def test_each_form(key: tuple[str, Types]) -> None:
    """Each op becomes what the table says, and computes what its QDQ form does, with and without contrib."""
    for contrib in (False, True):
        form = fused(*key, contrib)
        _becomes_what_the_table_says(form)
        for optimize in (True, False):
            far(form, run(form.proto, [form.sample], optimize)[0])
        if not contrib:
            assert {o.domain for o in form.proto.opset_import} <= {"", "ai.onnx"}
            has_reference = form.op.opset >= FIRST_REFERENCE_OPSET and key[0] not in BEYOND_THE_REFERENCE
            if has_reference and form.wanted() is not None:
                far(form, evaluate(form.proto, form.sample))


# The reference (onnx 1.23) has per-channel QLinearConv for images only, and pads integers with NaN.
BEYOND_THE_REFERENCE = ("conv-1d", "conv-3d", "max-pool-opset-22")


def far(form: Fused, got: dict[str, np.ndarray]) -> None:
    """Hold outputs against those of the QDQ form, as it is written."""
    expected = run(form.qdq, [form.sample], optimize=False)[0]
    assert expected.keys() == got.keys()
    for name, step in form.steps.items():
        assert expected[name].shape == got[name].shape
        off = np.abs(expected[name].astype(np.float64) - got[name]).max(initial=0)
        tolerance = step * (form.op.steps + 1e-3) if step else 1e-5 * np.abs(expected[name]).max(initial=0)
        assert off <= tolerance, off / (step or tolerance)


def _becomes_what_the_table_says(form: Fused) -> None:
    ran = Counter(n.op_type for n in form.proto.graph.node)
    wanted = form.wanted()
    if wanted is None:
        assert form.proto.graph == form.qdq.graph or ran == Counter(n.op_type for n in form.qdq.graph.node)
        return
    inputs, outputs = len(form.op.shapes), sum(s != 0 for s in form.steps.values())
    assert not Counter(wanted) - ran
    integers = set(wanted) & INTEGERS != {"MatMulInteger"}
    requantized = outputs and not integers
    assert ran["QuantizeLinear"] == inputs + bool(requantized)
    assert ran["DequantizeLinear"] == outputs
    assert set(ran) - {*wanted, *form.op.clamp} <= {"QuantizeLinear", "DequantizeLinear", "Clip"}


# ---- what the forms leave, share and name ----


def small(op: Op, *, act: str = "u8", contrib: bool = True) -> Counter[str]:
    """The op types of one op, lowered."""
    qdq, _, _ = build(op, Types(act))
    return Counter(n.op_type for n in fuse(qdq, contrib).graph.node)


def test_a_relu_needs_no_node_where_zero_is_the_lowest_integer() -> None:
    assert small(replace(CONV, clamp=("Relu",))) == {
        "QuantizeLinear": 1,
        "QLinearConv": 1,
        "DequantizeLinear": 1,
    }
    assert small(replace(CONV, clamp=("Relu",)), act="s8")["Clip"] == 1


def test_a_clip_needs_no_node_where_the_scale_ends_within_it() -> None:
    assert small(replace(CONV, clamp=("Clip",), limits=(0.0, 6.0)))["Clip"] == 0
    assert small(replace(CONV, clamp=("Clip",), limits=(-0.3, 0.7)))["Clip"] == 0


def test_clips_of_integers_have_the_bounds_that_are_needed() -> None:
    graph, sample = Graph(17), {"x": rng().standard_normal((4, 4)).astype(np.float32)}
    graph.constant("lo", np.float32(-0.55))
    graph.constant("hi", np.float32(0.55))
    read = graph.q_dq("x", np.float32(0.1), np.uint8(100))
    graph.add("Clip", [read, "lo", "hi"], ["both"])
    graph.add("Clip", [read, "", "hi"], ["above"])
    graph.add("Relu", [read], ["below"])
    outs = [graph.q_dq(name, np.float32(0.1), np.uint8(100)) for name in ("both", "above", "below")]
    made = fuse(graph.model(sample, outs), contrib=False)
    constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    clips = [
        [constants[i].item() if i else None for i in n.input[1:]]
        for n in made.graph.node
        if n.op_type == "Clip"
    ]
    assert clips == [[94, 106], [None, 106], [100]]  # -5.5 and 5.5 steps round to even


@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize("name", ["conv", "matmul", "gemm", "add", "max-pool", "pad"])
def test_16_bits_stay_as_they_are(name: str, contrib: bool) -> None:
    qdq, _, _ = build(replace(ALL[name], opset=21), Types("u16"))
    assert fuse(qdq, contrib).graph.node == qdq.graph.node


def test_a_value_that_floats_read_too_keeps_one_dq() -> None:
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    read = graph.q_dq("x", np.float32(0.02), np.uint8(128))
    graph.add("Reshape", [read, graph.constant("shape", i64(4, 4))], ["r"])
    requantized = graph.q_dq("r", np.float32(0.02), np.uint8(128))
    graph.add("Tanh", [requantized], ["t"])
    graph.add("Sinh", [requantized], ["s"])
    made = fuse(graph.model(sample, ["t", "s"]), contrib=True)
    assert [n.op_type for n in made.graph.node] == [
        "QuantizeLinear",
        "Reshape",
        "DequantizeLinear",
        "Tanh",
        "Sinh",
    ]
    assert made.graph.node[1].output[0] == "r_quantized"


def test_a_product_that_floats_read_too_is_not_rounded() -> None:
    """MatMul -> Q for one reader, floats for the other: floats come out of the integer operator."""
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
    _weight(graph, replace(MATMUL, weight=(8, 4)), Types(), np.float32(0.02), inputs)
    graph.add("MatMul", inputs, ["m"])
    graph.add("Tanh", ["m"], ["t"])
    out = graph.q_dq("m", np.float32(0.03), np.uint8(128))
    made = fuse(graph.model(sample, ["t", out]), contrib=True)
    assert [n.op_type for n in made.graph.node] == [
        "QuantizeLinear",
        "MatMulIntegerToFloat",
        "Tanh",
        "QuantizeLinear",
        "DequantizeLinear",
    ]
    assert made.graph.node[1].name == "MatMul_m_quantized" and made.graph.node[1].output[0] == "m"


def test_a_q_behind_a_dq_cancels_only_at_the_same_scale() -> None:
    for scale, left in (
        (0.02, ["QuantizeLinear", "DequantizeLinear"]),
        (0.03, ["QuantizeLinear", "DequantizeLinear"] * 2),
    ):
        graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
        requantized = graph.q_dq("x", np.float32(0.02), np.uint8(128))
        out = graph.q_dq(requantized, np.float32(scale), np.uint8(128))
        made = fuse(graph.model(sample, [out]), contrib=True)
        assert [n.op_type for n in made.graph.node] == left
        assert made.graph.output[0].name == out


def test_nothing_is_lowered_across_a_fusion_barrier() -> None:
    """Max(x, -3e38) keeps the runtime from quantizing what is before it; so it does here."""
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    read = graph.q_dq("x", np.float32(0.02), np.uint8(128))
    graph.add("Sigmoid", [read], ["s"])
    graph.add("Max", ["s", graph.constant("floor", np.float32(-3e38))], ["g"])
    proto = graph.model(sample, [graph.q_dq("g", np.float32(1 / 255), np.uint8(0))])
    assert fuse(proto, contrib=True).graph.node == proto.graph.node


def test_integers_at_the_border_keep_their_names_and_types() -> None:
    """A model that takes and gives integers: DQ first, Q last."""
    graph, sample = Graph(17), {"x": np.arange(16, dtype=np.uint8).reshape(2, 8)}
    params = [graph.constant("s", np.float32(0.02)), graph.constant("z", np.uint8(128))]
    inputs = [graph.add("DequantizeLinear", ["x", *params], ["xf"])]
    _weight(graph, replace(MATMUL, weight=(8, 4)), Types(), np.float32(0.02), inputs)
    graph.add("MatMul", inputs, ["m"])
    graph.add("QuantizeLinear", ["m", graph.constant("ys", np.float32(0.03)), "z"], ["y"])
    graph.add("QuantizeLinear", ["xf", *params], ["same"])
    proto = graph.model(sample, ["y", "same"])
    made = fuse(proto, contrib=False)
    assert made.graph.input == proto.graph.input and made.graph.output == proto.graph.output
    assert Counter(n.op_type for n in made.graph.node) == {
        "QLinearMatMul": 1,
        "DequantizeLinear": 1,
        "QuantizeLinear": 1,
    }
    before, after = (run(p, [sample], optimize=False)[0] for p in (proto, made))
    assert np.abs(before["y"].astype(int) - after["y"]).max() <= STEPS
    assert (before["same"] == after["same"]).all()


@pytest.mark.parametrize("wrong", ["scale", "float", "zero"])
def test_a_bias_at_another_scale_is_not_added_to_the_sum(wrong: str) -> None:
    qdq, _, _ = build(CONV, Types())
    for tensor in qdq.graph.initializer:
        if tensor.name == "b_scale" and wrong == "scale":
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), "b_scale")
            )
    dq = next(n for n in qdq.graph.node if n.output[0] == "b_dequantized")
    if wrong == "zero":
        dq.input.append("b_zero")
        dq.ClearField("attribute")
        dq.attribute.append(helper.make_attribute("axis", 0))
        qdq.graph.initializer.append(numpy_helper.from_array(np.ones(6, np.int32), "b_zero"))
    if wrong == "float":
        qdq.graph.node.remove(dq)
        qdq.graph.initializer.append(numpy_helper.from_array(weights(6), "b_dequantized"))
        del qdq.graph.initializer[[t.name for t in qdq.graph.initializer].index("b_quantized")]
        del qdq.graph.initializer[[t.name for t in qdq.graph.initializer].index("b_scale")]
    assert fuse(qdq, contrib=True).graph.node == qdq.graph.node


def test_a_transposed_weight_is_in_the_file_once() -> None:
    graph, sample = Graph(17), {"x": rng().standard_normal((2, 8)).astype(np.float32)}
    inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
    _weight(graph, replace(MATMUL, weight=(4, 8), channels=0), Types(), np.float32(0.02), inputs)
    for name in ("first", "second"):
        graph.add("Gemm", inputs, [name], transB=1)
    made = fuse(graph.model(sample, ["first", "second"]), contrib=False)
    assert [(t.name, tuple(t.dims)) for t in made.graph.initializer if len(t.dims) == 2] == [
        ("w_quantized_transposed", (8, 4))
    ]


def test_weights_of_unequal_zero_points_stay_out_of_a_convolution() -> None:
    """The kernel has one zero point for all channels."""
    qdq, _, _ = build(CONV, Types("u8", "u8"))
    for tensor in qdq.graph.initializer:
        if tensor.name == "w_zero_point":
            tensor.CopyFrom(numpy_helper.from_array(np.arange(120, 126, dtype=np.uint8), "w_zero_point"))
    assert fuse(qdq, contrib=True).graph.node == qdq.graph.node


def test_gemms_that_are_not_plain_stay_as_they_are() -> None:
    for attributes in ({"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}):
        op = replace(GEMM, shapes=((16, 16),), attributes=attributes)
        qdq, _, _ = build(op, Types())
        for contrib in (True, False):
            assert fuse(qdq, contrib).graph.node == qdq.graph.node


def stays(graph: Graph, sample: dict[str, np.ndarray], out: str) -> None:
    """A graph that has no integer form in either way."""
    proto = graph.model(sample, [out])
    for contrib in (True, False):
        assert fuse(proto, contrib).graph.node == proto.graph.node


@pytest.mark.parametrize(("scale", "zero"), [(0.03, 128), (0.02, 127)])
@pytest.mark.parametrize("op", ["Flatten", "MaxPool", "Relu"])
def test_values_are_not_moved_from_one_scale_to_another(op: str, scale: float, zero: int) -> None:
    graph, sample = Graph(19), {"x": rng().standard_normal((1, 2, 8)).astype(np.float32)}
    read = graph.q_dq("x", np.float32(0.02), np.uint8(128))
    graph.add(op, [read], ["r"], **({"kernel_shape": [2]} if op == "MaxPool" else {}))
    stays(graph, sample, graph.q_dq("r", np.float32(scale), np.uint8(zero)))


def test_no_operator_goes_from_one_type_to_another() -> None:
    """Only a product can stop half way, in floats."""
    for op in ("Sigmoid", "Flatten", "Conv", "MatMul"):
        graph, sample = Graph(19), {"x": rng().standard_normal((1, 8, 4, 4)).astype(np.float32)}
        inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
        if op in ("Conv", "MatMul"):
            form = replace(MATMUL, weight=(4, 4)) if op == "MatMul" else replace(CONV, bias=False)
            _weight(graph, form, Types(), np.float32(0.02), inputs)
        graph.add(op, inputs, ["r"])
        out = graph.q_dq("r", np.float32(0.02), np.int8(0))
        if op != "MatMul":
            stays(graph, sample, out)
        else:
            ran = [n.op_type for n in fuse(graph.model(sample, [out]), contrib=True).graph.node]
            assert ran == ["QuantizeLinear", "MatMulIntegerToFloat", "QuantizeLinear", "DequantizeLinear"]


def test_scales_along_the_rows_of_a_weight_have_no_integer_form() -> None:
    for op, weight, axis in (("MatMul", (8, 8), 0), ("Gemm", (8, 8), 0), ("Conv", (8, 8, 1, 1), 1)):
        shape = (1, 8, 4, 4) if op == "Conv" else (2, 8)
        graph, sample = Graph(19), {"x": rng().standard_normal(shape).astype(np.float32)}
        inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
        _weight(graph, replace(MATMUL, weight=weight, channels=axis), Types(), np.float32(0.02), inputs)
        graph.add(op, inputs, ["r"])
        stays(graph, sample, graph.q_dq("r", np.float32(0.02), np.uint8(128)))


def test_a_value_that_two_read_is_quantized_for_one_of_them_only() -> None:
    graph, sample = Graph(19), {"x": rng().standard_normal((1, 8, 4, 4)).astype(np.float32)}
    inputs = [graph.q_dq("x", np.float32(0.02), np.uint8(128))]
    _weight(graph, replace(CONV, bias=False), Types(), np.float32(0.02), inputs)
    graph.add("Conv", inputs, ["c"])
    graph.add("Relu", ["c"], ["r"])
    graph.add("Add", [graph.q_dq("r", np.float32(0.02), np.uint8(0)), "c"], ["a"])
    stays(graph, sample, "a")


def test_dilations_of_one_are_no_dilations() -> None:
    """onnxruntime 1.31 can't load this one in its QDQ form: its own fusion trips over the attribute."""
    op = Op("AveragePool", attributes={"kernel_shape": [2, 2], "dilations": [1, 1]}, opset=19)
    qdq, sample, steps = build(op, Types())
    made = fuse(qdq, contrib=True)
    assert [n.op_type for n in made.graph.node] == [
        "QuantizeLinear",
        "QLinearAveragePool",
        "DequantizeLinear",
    ]
    before, after = run(qdq, [sample], optimize=False)[0], run(made, [sample])[0]
    ((name, step),) = steps.items()
    assert np.abs(before[name] - after[name]).max() <= step * 1.001
    dilated = replace(op, attributes={"kernel_shape": [2, 2], "dilations": [2, 2]})
    assert small(dilated)["AveragePool"] == 1


# ---- the tables ----


def test_every_op_that_passes_values_on_moves_integers_or_can_t() -> None:
    passing = {op for op, row in OPS.items() if row.role is Role.PASS}
    assert passing - MOVES.keys() == {"GlobalMaxPool"}


@pytest.mark.parametrize("opset", range(13, 27))
def test_onnx_has_the_moves_for_integers(opset: int) -> None:
    for op in MOVES:
        schema = onnx.defs.get_schema(op, opset)
        index = (MOVES[op] or (0,))[0]
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        assert {"tensor(uint8)", "tensor(int8)"} <= set(allowed[schema.inputs[index].type_str])


def test_the_moves_and_elementwise_operators_are_all_tried_above() -> None:
    assert {op.op_type for op in ALL.values()} >= MOVES.keys() | ELEMENTWISE.keys()


@pytest.mark.parametrize(
    "product",
    [QLINEAR_CONV, QLINEAR_MATMUL, MATMUL_INTEGER, MATMUL_INTEGER_TO_FLOAT, Q_GEMM],
    ids=lambda p: p.op_type,
)
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
def test_the_kernels_take_the_pairs_of_the_table_and_no_others(product: Product, optimize: bool) -> None:
    taken = set()
    for a, b in product_types("uint8 int8".split(), repeat=2):
        with contextlib.suppress(ModelError):
            Session(bare(product, a, b).SerializeToString(), optimize=optimize)
            taken.add((a, b))
    assert taken == product.pairs


def bare(product: Product, a: str, b: str) -> onnx.ModelProto:
    """One integer operator by itself, with a result of its own type, int32 or float."""
    shape = [1, 8, 6, 6] if product is QLINEAR_CONV else [5, 16]
    weight = [4, 8, 3, 3] if product is QLINEAR_CONV else [16, 4]
    scale, zeros = np.float32(0.1), {"za": np.zeros((), a), "zb": np.zeros((), b), "zy": np.zeros((), a)}
    result = helper.np_dtype_to_tensor_dtype(np.dtype(a))
    inputs = ["a", "s", "za", "b", "s", "zb", "s", "zy"]
    if product is MATMUL_INTEGER:
        inputs, result = ["a", "b", "za", "zb"], TensorProto.INT32
    elif product is MATMUL_INTEGER_TO_FLOAT:
        inputs, result = ["a", "b", "s", "s", "za", "zb"], TensorProto.FLOAT
    elif product is Q_GEMM:
        inputs = [*inputs[:6], "", *inputs[6:]]
    constants = {"s": scale, **zeros, "b": np.ones(weight, b)}
    graph = helper.make_graph(
        [helper.make_node(product.op_type, inputs, ["y"], domain=product.domain)],
        "bare",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(np.dtype(a)), shape)],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items() if k in inputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


# ---- whole models ----


def qdq_form(
    proto: onnx.ModelProto, samples: Sequence[dict[str, np.ndarray]], target: str
) -> onnx.ModelProto:
    """The QDQ model of the rule-based plan."""
    return write(proto, samples, target).proto


def zoo_case(case: str, target: str) -> tuple[list[dict[str, np.ndarray]], onnx.ModelProto, float]:
    """The samples of a case, its QDQ model, and that one's SQNR."""
    proto, samples = CASES[case].build(), list(CASES[case].samples())
    qdq = qdq_form(proto, samples, target)
    return samples, qdq, sqnr(run(proto, samples), run(qdq, samples))


LOST_DB = 1.0


@pytest.mark.parametrize(("case", "target", "contrib"), in_turn(CASES, ("cpu", "generic"), (True, False)))
def test_zoo(case: str, target: str, contrib: bool) -> None:
    samples, qdq, wanted = zoo_case(case, target)
    expected = run(CASES[case].build(), samples)
    hold(qdq, fuse(qdq, contrib), contrib, samples, expected, wanted)


def hold(
    qdq: onnx.ModelProto,
    made: onnx.ModelProto,
    contrib: bool,
    samples: Sequence[dict[str, np.ndarray]],
    expected: Sequence[dict[str, np.ndarray]],
    wanted: float,
) -> None:
    """Hold a model with integer operators against its QDQ form, whose SQNR is `wanted`."""
    assert left_over(made, contrib) == []
    assert made.graph.input == qdq.graph.input and made.graph.output == qdq.graph.output
    names = [n.name for n in made.graph.node] + [o for n in made.graph.node for o in n.output if o]
    names += [t.name for t in made.graph.initializer]
    assert max(Counter(names).values()) == 1
    before, after = ({o.domain for o in m.opset_import} for m in (qdq, made))
    assert after - before <= ({MICROSOFT} if contrib else set())
    assert {n.domain for n in made.graph.node} <= after
    # As given, integer operators saturate on a CPU without VNNI (tests/conftest.py); optimized, they do not.
    for optimize in (True, False) if exact() else (True,):
        assert sqnr(expected, run(made, samples, optimize)) >= wanted - LOST_DB


def left_over(model: onnx.ModelProto, contrib: bool) -> list[str]:
    """The nodes between DQs and a Q that have a known integer form: read from the file, by rules of its own."""
    made = {o: n for n in model.graph.node for o in n.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    outputs = {o.name for o in model.graph.output}

    def params(node: onnx.NodeProto) -> tuple[Any, ...] | None:
        scale, zero = (constants.get(n) for n in node.input[1:3]) if len(node.input) > 2 else (None, None)
        if scale is None or zero is None or zero.dtype.itemsize != 1:
            return None
        return scale.tobytes(), zero.tobytes(), zero.dtype.name

    def source(name: str) -> tuple[Any, ...] | None:
        node = made.get(name)
        return params(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def quantizes(name: str, clamps: bool = True) -> tuple[Any, ...] | None:
        consumers = readers.get(name, [])
        if name in outputs or len(consumers) != 1:
            return None
        if consumers[0].op_type in ("Relu", "Clip") and clamps:
            return quantizes(consumers[0].output[0], clamps=False)
        return params(consumers[0]) if consumers[0].op_type == "QuantizeLinear" else None

    left = []
    for node in model.graph.node:
        read, written = [source(name) for name in node.input], quantizes(node.output[0])
        if node.op_type in ("MatMul", "Gemm") or (node.op_type == "Conv" and written):
            left += [node.name] if all(read[:2]) else []
        for scales, indices in forms_of(node.op_type, contrib):
            operands = read if indices is None else [read[i] for i in indices]
            results = [quantizes(o, clamps=scales == "any scale") for o in node.output if o in readers]
            if all(operands) and all(results) and results:
                left += [node.name] if scales == "any scale" or len({*operands, *results}) == 1 else []
    return left


def test_the_search_for_what_is_left_finds_it_all_before() -> None:
    left = left_over(zoo_case("mobile-block", "generic")[1], contrib=True)
    assert sorted(left) == sorted(
        n.name for n in CASES["mobile-block"].build().graph.node if n.op_type in ("Conv", "Add")
    )


def forms_of(op: str, contrib: bool) -> list[tuple[str, tuple[int, ...] | None]]:
    """The forms of an op without weights: whether its scales may differ, and the inputs that have them."""
    forms: list[tuple[str, tuple[int, ...] | None]] = []
    if op in MOVES or op in ("Relu", "Clip"):
        forms.append(("one scale", MOVES.get(op, (0,))))
    if op in ELEMENTWISE and contrib:
        forms.append(("any scale", ELEMENTWISE[op].operands))
    return forms


def sample_files(folder: Path, count: int) -> list[dict[str, np.ndarray]]:
    arrays = []
    for path in sorted(folder.glob("*.npz"))[:count]:
        with np.load(path) as data:
            arrays.append({k: data[k] for k in data.files})
    return arrays


MODELS = {
    **{name: SAMPLE_MODELS / name for name in ("cnn", "lstm", "transformer")},
    **{name: SHARED_MODELS / name for name in ("resnet20_cifar10", "ultraface_rfb320", "lprnet", "magika", "mnist_opset8", "minilm_l6_v2")},
}  # fmt: skip


LARGE = ("minilm_l6_v2", "ultraface_rfb320")


@pytest.mark.parametrize(
    ("name", "target"), in_turn((m for m in MODELS if nightly() or m not in LARGE), ("cpu", "generic"))
)
def test_trained_models(name: str, target: str) -> None:
    folder = MODELS[name]
    if not (folder / "model.onnx").is_file():
        pytest.skip(f"{folder} is absent")
    proto, calibration, evaluation = (
        onnx.load(folder / "model.onnx"),
        sample_files(folder / "calib", 6),
        sample_files(folder / "eval", 3),
    )
    expected = run(proto, evaluation)
    qdq = qdq_form(proto, calibration, target)
    wanted = sqnr(expected, run(qdq, evaluation))
    for contrib in (True, False):
        hold(qdq, fuse(qdq, contrib), contrib, evaluation, expected, wanted)
