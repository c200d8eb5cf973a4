"""Ranges without samples, held against samples: onnxruntime and onnx's reference are the oracles.

Two laws: no value exceeds its hard bounds, whatever is fed within the declared ranges; and a range covers
what random inputs give without being much wider, where the model of what they do is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qtool.calibrate.analytic import Estimate, bounds, flow, propagate, roughness
from qtool.calibrate.analytic.rules import RULES
from qtool.errors import QtoolError
from qtool.graph.load import from_model
from qtool.graph.prepare import prepare
from qtool.runtime.session import Session
from qtool.tables.ops import OPS
from tests.calibrate.seen import observe
from tests.graphs import model, node, rng, weights

LAW = settings(deadline=None, max_examples=40, derandomize=True, database=None)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
MICROSOFT = "com.microsoft::"
Ranges = Mapping[str, tuple[float, float]]


def estimated(proto: onnx.ModelProto, ranges: Ranges | None = None) -> Estimate:
    """The estimate of every value of a prepared model."""
    source = from_model(proto).model
    prepared = prepare(source, onnxruntime=True).model
    values = [v.name or "" for n in prepared.graph for v in n.outputs]
    return propagate(
        source, prepared, [*(v.name or "" for v in prepared.graph.inputs), *values], ranges or {}
    )


def uniform(shape: Sequence[int], lo: float, hi: float, seed: int = 3) -> np.ndarray:
    return rng(seed).uniform(lo, hi, shape).astype(np.float32)


def run(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs, of onnxruntime where it has the op, else of onnx's reference."""
    names = [o.name for o in proto.graph.output]
    try:
        session = Session(proto.SerializeToString(), threads=1, optimize=False)
        return dict(zip(names, session.run(feeds), strict=True))
    except QtoolError:
        return dict(zip(names, ReferenceEvaluator(proto).run(None, dict(feeds)), strict=True))


def check_covers(estimate: Estimate, value: str, seen: np.ndarray, widest: float) -> None:
    """The range holds 99.9% of what was seen, and is at most so many times as wide."""
    found, real = estimate.ranges[value], observe(seen)
    assert real is not None
    margin = 0.01 * max(1e-6, real.hi - real.lo)
    assert np.mean((seen >= found.lo - margin) & (seen <= found.hi + margin)) >= 0.999
    assert found.hi - found.lo <= widest * (max(real.hi, 0.0) - min(real.lo, 0.0)) + 1e-6


# --- every op ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One node of an op, fed with uniform random numbers.

    Args:
        inputs: what is fed: name -> shape, or an int array to be fed as it is.
        constants: in the order after the inputs, unless `order` says otherwise.
        span: what all inputs lie in.
        widest: how many times as wide as what is seen the range may be; None: nothing is known.
        typical: how many times off the typical magnitude may be.
    """

    inputs: Mapping[str, Sequence[int] | np.ndarray]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    order: Sequence[str] = ()
    span: tuple[float, float] = (-2.0, 3.0)
    widest: float | None = 1.05
    typical: float = 1.3
    outputs: int = 1
    output_type: int = FLOAT
    opset: int = 20
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def build(self, key: str) -> onnx.ModelProto:
        domain, _, op = key.rpartition("::")
        order = self.order or [*self.inputs, *self.constants]
        outputs = [f"y{i}" if i else "y" for i in range(self.outputs)]
        made = helper.make_node(op, order, outputs, "n", domain=domain, **self.attributes)
        fed = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            if isinstance(v, np.ndarray)
            else helper.make_tensor_value_info(k, FLOAT, list(v))
            for k, v in self.inputs.items()
        ]
        graph = helper.make_graph(
            [made],
            "one",
            fed,
            [helper.make_tensor_value_info("y", self.output_type, None)],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def feeds(self) -> dict[str, np.ndarray]:
        return {
            k: v if isinstance(v, np.ndarray) else uniform(v, *self.span, seed=i)
            for i, (k, v) in enumerate(self.inputs.items())
        }


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


MANY = {"x": (64, 256)}
TWO = {"a": (64, 256), "b": (64, 256)}
IMAGE = {"x": (16, 8, 12, 12)}
ROWS = {"x": (256, 32)}
GAMMA, BETA = uniform((32,), 0.5, 2.0), uniform((32,), -1.0, 1.0)
CHANNELS = {"scale": uniform((8,), 0.5, 2.0), "bias": uniform((8,), -1.0, 1.0)}
STEPS = {"x": (4, 8, 6)}
LSTM = {"w": weights(1, 40, 6), "r": weights(1, 40, 10)}
GRU = {"w": weights(1, 30, 6), "r": weights(1, 30, 10)}
RNN = {"w": weights(1, 10, 6), "r": weights(1, 10, 10)}
SINGLE = ("Abs Neg Exp Erf Softplus Softsign Relu Celu Selu HardSwish Mish Sign Atan Gelu").split()
TRUTHS = ("Greater GreaterOrEqual Less LessOrEqual").split()
LOGIC = ("And Or Xor").split()
TRUTH = {"output_type": BOOL, "widest": None}

CASES: dict[str, Case] = {
    **{op: Case(MANY) for op in SINGLE},
    **{op: Case(MANY, widest=1.4, typical=1.5) for op in ("Floor", "Ceil", "Round")},
    "Elu": Case(MANY, attributes={"alpha": 0.7}),
    "LeakyRelu": Case(MANY, attributes={"alpha": 0.2}),
    "Log": Case(MANY, span=(0.1, 5.0)),
    "Sqrt": Case(MANY, span=(0.0, 5.0)),
    "Reciprocal": Case(MANY, span=(0.5, 4.0)),
    "Sin": Case(MANY),
    "Cos": Case(MANY, widest=1.4),
    "Sigmoid": Case(MANY),
    "HardSigmoid": Case(MANY, span=(-4.0, 4.0)),
    "Tanh": Case(MANY),
    "Clip": Case(MANY, {"lo": np.float32(-1), "hi": np.float32(1)}),
    "Pow": Case(MANY, {"p": np.float32(3)}, typical=2),
    "Swish": Case(MANY, attributes={"alpha": 1.2}, opset=24),
    MICROSOFT + "QuickGelu": Case(MANY, attributes={"alpha": 1.702}),
    MICROSOFT + "Gelu": Case(MANY),
    MICROSOFT + "BiasGelu": Case(ROWS, {"bias": BETA}),
    MICROSOFT + "FastGelu": Case(ROWS, {"bias": BETA}),
    "Add": Case(TWO, typical=2.0),
    "Sub": Case(TWO, typical=2.0),
    "Mul": Case(TWO, widest=1.3, typical=2.0),
    "Div": Case({"a": (64, 256), "b": (64, 256)}, span=(1.0, 3.0), widest=1.5),
    "Max": Case(TWO, typical=2.0),
    "Min": Case(TWO, typical=2.0),
    "Sum": Case({"a": (64, 64), "b": (64, 64), "c": (64, 64)}, widest=1.3, typical=2.0),
    "Mean": Case(TWO, typical=2.0),
    "PRelu": Case(ROWS, {"slope": GAMMA}),
    "Where": Case({"x": (64, 256)}, {"c": uniform((64, 256), 0, 1) > 0.5, "z": np.float32(1)}, order=("c", "x", "z")),
    "Conv": Case(IMAGE, {"w": weights(12, 8, 3, 3), "b": weights(12)}, widest=4, typical=1.6),
    "ConvTranspose": Case(
        IMAGE, {"w": weights(8, 12, 3, 3)}, widest=4, typical=1.6, attributes={"strides": [2, 2]}
    ),
    "MatMul": Case(ROWS, {"w": weights(32, 24)}, widest=3, typical=1.6),
    "Gemm": Case(ROWS, {"w": weights(24, 32), "b": weights(24)}, widest=3, typical=1.6, attributes={"transB": 1}),
    "LSTM": Case(STEPS, LSTM, widest=20, typical=50, outputs=3, attributes={"hidden_size": 10}),
    "GRU": Case(STEPS, GRU, widest=20, typical=50, outputs=2, attributes={"hidden_size": 10}),
    "RNN": Case(STEPS, RNN, widest=20, typical=50, outputs=2, attributes={"hidden_size": 10}),
    "BatchNormalization": Case(
        IMAGE, {**CHANNELS, "mean": np.full(8, 0.5, np.float32), "var": np.full(8, 25 / 12, np.float32)}, widest=2
    ),
    "LayerNormalization": Case(ROWS, {"g": GAMMA, "b": BETA}, widest=3.5),
    "RMSNormalization": Case(ROWS, {"g": GAMMA}, widest=3.5, typical=2, opset=23),
    "SimplifiedLayerNormalization": Case(ROWS, {"g": GAMMA}, widest=3.5, typical=2, attributes={"axis": -1}),
    MICROSOFT + "SkipLayerNormalization": Case(
        {"x": (4, 64, 32), "s": (4, 64, 32)}, {"g": GAMMA, "b": BETA}, widest=3.5
    ),
    MICROSOFT + "SkipSimplifiedLayerNormalization": Case(
        {"x": (4, 64, 32), "s": (4, 64, 32)}, {"g": GAMMA}, widest=3.5, typical=1.5
    ),
    "InstanceNormalization": Case(IMAGE, CHANNELS, widest=7),
    "GroupNormalization": Case(IMAGE, CHANNELS, widest=7, attributes={"num_groups": 4}, opset=21),
    "LpNormalization": Case(ROWS, widest=3, typical=2, attributes={"p": 2}),
    "LRN": Case(IMAGE, widest=1.05, typical=1.5, attributes={"size": 3}),
    "Softmax": Case(ROWS, widest=10),
    "LogSoftmax": Case(ROWS, widest=3),
    "AveragePool": Case(IMAGE, widest=2, typical=2, attributes={"kernel_shape": [3, 3]}),
    "MaxPool": Case(IMAGE, widest=1.5, typical=2, attributes={"kernel_shape": [3, 3]}),
    "GlobalAveragePool": Case(IMAGE, widest=10, typical=2),
    "GlobalMaxPool": Case(IMAGE),
    "ReduceMean": Case(ROWS, {"axes": ints(1)}, widest=10, typical=2),
    "ReduceSum": Case(ROWS, {"axes": ints(1)}, widest=10, typical=2),
    "ReduceMax": Case(ROWS, {"axes": ints(-1)}, widest=1.6),
    "ReduceMin": Case(ROWS, {"axes": ints(-1)}, widest=1.6),
    "ReduceL2": Case(ROWS, {"axes": ints(1)}, widest=3),
    "CumSum": Case(ROWS, {"axis": np.int64(1)}, widest=None),
    "Identity": Case(MANY),
    "Dropout": Case(MANY),
    "Cast": Case(MANY, attributes={"to": FLOAT}),
    "Expand": Case({"x": (1, 2048)}, {"s": ints(4, 2048)}),
    "Reshape": Case(IMAGE, {"s": ints(16, -1)}),
    "Flatten": Case(IMAGE),
    "Squeeze": Case({"x": (64, 1, 64)}, {"axes": ints(1)}),
    "Unsqueeze": Case(MANY, {"axes": ints(0, 3)}),
    "Transpose": Case(IMAGE, attributes={"perm": [0, 2, 3, 1]}),
    "Concat": Case(TWO, attributes={"axis": 1}),
    "Slice": Case(MANY, {"s": ints(0), "e": ints(100), "a": ints(1)}),
    "Split": Case(MANY, {"parts": ints(128, 128)}, outputs=2),
    "Gather": Case({"i": rng(0).integers(0, 300, (20, 50))}, {"t": weights(300, 16)}, order=("t", "i")),
    "GatherElements": Case({"x": (64, 64)}, {"i": rng(0).integers(0, 64, (64, 64))}),
    "GatherND": Case({"x": (64, 64)}, {"i": rng(0).integers(0, 64, (900, 2))}),
    "TopK": Case({"x": (64, 64)}, {"k": ints(60)}, outputs=2),
    "Trilu": Case({"x": (64, 64)}),
    "Tile": Case({"x": (32, 64)}, {"r": ints(2, 2)}),
    "Pad": Case(IMAGE, {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
    "Resize": Case(
        IMAGE, {"roi": floats(), "s": floats(1, 1, 2, 2)}, order=("x", "roi", "s"), attributes={"mode": "linear"},
        typical=1.7,
    ),
    "GridSample": Case(IMAGE, {"g": uniform((16, 16, 16, 2), -1, 1)}, typical=1.7),
    "Upsample": Case(IMAGE, {"s": floats(1, 1, 2, 2)}, opset=9),
    "DepthToSpace": Case(IMAGE, attributes={"blocksize": 2}),
    "SpaceToDepth": Case(IMAGE, attributes={"blocksize": 2}),
    **{op: Case(TWO, **TRUTH) for op in TRUTHS},
    "Equal": Case(TWO, **TRUTH),
    **{op: Case({k: uniform((8, 8), -1, 1) > 0 for k in "ab"}, **TRUTH) for op in LOGIC},
    "Not": Case({"a": uniform((8, 8), -1, 1) > 0}, **TRUTH),
    "IsNaN": Case(MANY, **TRUTH),
    "IsInf": Case(MANY, **TRUTH),
    "OneHot": Case({"i": rng(0).integers(0, 10, (50,))}, {"d": ints(10), "v": floats(-1, 4)}, typical=2),
    "Shape": Case(MANY, output_type=INT64, widest=None),
    "ConstantOfShape": Case(
        {"s": ints(3, 4)}, attributes={"value": numpy_helper.from_array(floats(2.5))}
    ),
    "Range": Case({}, {"a": np.int64(2), "b": np.int64(30), "s": np.int64(3)}, output_type=INT64, widest=None),
    "ai.onnx.ml::Scaler": Case(
        {"x": (512, 4)}, attributes={"offset": [1.0, 2.0, 3.0, 4.0], "scale": [0.5, 1.0, 2.0, 3.0]}
    ),
}  # fmt: skip


def test_every_rule_has_a_case() -> None:
    assert CASES.keys() == RULES.keys()


def test_every_op_of_the_table_has_a_rule() -> None:
    assert OPS.keys() <= RULES.keys()


@pytest.mark.parametrize("key", CASES)
def test_an_op_is_estimated_as_random_inputs_show_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_ODD", ())  # a rule that fails fails the test
    case = CASES[key]
    proto, feeds = case.build(key), case.feeds()
    graph = ir.from_proto(proto)
    fed = {k: case.span for k, v in case.inputs.items() if not isinstance(v, np.ndarray)}
    seen = run(proto, feeds)["y"]
    within = bounds(graph, fed).get("y", (-math.inf, math.inf))
    size = 1e-4 * max(1.0, float(np.abs(seen).max()))
    assert seen.min() >= within[0] - size
    assert seen.max() <= within[1] + size
    estimate = propagate(graph, graph, ["y"], fed)
    if case.widest is None:
        return
    check_covers(estimate, "y", seen, case.widest)
    typical = 2.0 ** np.log2(np.abs(seen[seen != 0], dtype=np.float64)).mean()
    assert 1 / case.typical <= estimate.ranges["y"].typical / typical <= case.typical


@pytest.mark.parametrize("key", CASES)
def test_no_op_needs_shapes_types_or_declared_inputs(key: str) -> None:
    graph = ir.from_proto(CASES[key].build(key))
    for value in (*graph.graph.inputs, *(v for n in graph.graph for v in n.outputs)):
        value.shape, value.type = None, None
    for ranges in ({}, dict.fromkeys(CASES[key].inputs, (-1.0, 1.0))):
        for found in propagate(graph, graph, ["y"], ranges).ranges.values():
            assert math.isfinite(found.lo) and math.isfinite(found.hi) and found.lo <= 0 <= found.hi


BOUNDED = [
    "Sigmoid",
    "HardSigmoid",
    "Tanh",
    "Softmax",
    "Clip",
    "Erf",
    "Softsign",
    "Sin",
    "LSTM",
    "RNN",
    "GRU",
]
NORMS = ["LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"]


@pytest.mark.parametrize("key", BOUNDED)
def test_bounded_ops_need_no_declared_input(key: str) -> None:
    graph = ir.from_proto(CASES[key].build(key))
    estimate = propagate(graph, graph, ["y"], {})
    assert estimate.basis["y"] == "bounded"
    check_covers(estimate, "y", run(CASES[key].build(key), CASES[key].feeds())["y"], 20)


@pytest.mark.parametrize("key", NORMS)
@pytest.mark.parametrize("scale", [0.01, 1, 1000])
def test_norms_need_no_declared_input(key: str, scale: float) -> None:
    if key == "BatchNormalization" and scale != 1:
        return  # it believes that inputs are as they were in training
    proto = CASES[key].build(key)
    graph = ir.from_proto(proto)
    estimate = propagate(graph, graph, ["y"], {})
    assert estimate.basis["y"] == "statistics"
    check_covers(estimate, "y", run(proto, {k: v * scale for k, v in CASES[key].feeds().items()})["y"], 6)


# --- graphs ----------------------------------------------------------------------------------------------------


def batch_norm(x: str, y: str, channels: int, seed: int = 0) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    """A BatchNormalization and its constants: gamma, beta, mean, var."""
    constants = {
        f"{y}_gamma": uniform((channels,), 0.5, 2.0, seed),
        f"{y}_beta": uniform((channels,), -1.0, 1.0, seed + 1),
        f"{y}_mean": uniform((channels,), -1.0, 1.0, seed + 2),
        f"{y}_var": uniform((channels,), 0.5, 2.0, seed + 3),
    }
    return node("BatchNormalization", [x, *constants], [y]), constants


def test_a_folded_batch_norm_still_tells_what_its_convolution_makes() -> None:
    """gamma z + beta, of the channel that reaches furthest; the Relu behind it cuts it off at 0."""
    norm, constants = batch_norm("c", "b", 8)
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), norm, node("Relu", ["b"], ["y"])],
        {"x": (1, 4, 8, 8)},
        ["y"],
        {"w": weights(8, 4, 3, 3), **constants},
    )
    estimate = estimated(proto)
    gamma, beta = constants["b_gamma"], constants["b_beta"]
    assert (estimate.basis["b"], estimate.basis["y"]) == ("statistics", "statistics")
    assert estimate.ranges["b"].hi == pytest.approx((beta + 10.1 * gamma).max(), rel=0.02)
    assert estimate.ranges["b"].lo == pytest.approx((beta - 10.1 * gamma).min(), rel=0.02)
    assert (estimate.ranges["y"].lo, estimate.ranges["y"].hi) == (0, estimate.ranges["b"].hi)


def test_what_is_folded_behind_a_batch_norm_is_known_too() -> None:
    """Conv, BatchNormalization, a constant Mul: one convolution under the last name."""
    norm, constants = batch_norm("c", "b", 8)
    proto = model(
        [node("Conv", ["x", "w"], ["c"]), norm, node("Mul", ["b", "s"], ["y"])],
        {"x": (1, 4, 8, 8)},
        ["y"],
        {"w": weights(8, 4, 3, 3), "s": np.full((8, 1, 1), 3, np.float32), **constants},
    )
    estimate = estimated(proto)
    assert estimate.basis["y"] == "statistics"
    reach = (constants["b_beta"] + 10.1 * constants["b_gamma"]).max()
    assert estimate.ranges["y"].hi == pytest.approx(3 * reach, rel=0.02)


def test_what_a_batch_norm_reads_is_known_from_its_running_statistics() -> None:
    """Pre-activation: the sum that it normalizes has the mean and variance that it was trained with."""
    norm, constants = batch_norm("s", "y", 8)
    proto = model(
        [node("Add", ["a", "b"], ["s"]), norm], {"a": (2, 8, 4, 4), "b": (2, 8, 4, 4)}, ["s", "y"], constants
    )
    estimate = estimated(proto)
    mean, deviation = constants["y_mean"], np.sqrt(constants["y_var"])
    assert estimate.basis["s"] == "statistics"
    assert estimate.ranges["s"].hi == pytest.approx((mean + 10.1 * deviation).max(), rel=0.02)


def test_a_float_input_without_a_range_tells_nothing() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])],
        {"x": (4, 8)},
        ["y"],
        {"w": weights(8, 8)},
    )
    assert estimated(proto).ranges == {}
    told = estimated(proto, {"x": (-1, 2)})
    assert told.basis == {"x": "declared", "m": "estimated", "y": "estimated"}
    assert (told.ranges["x"].lo, told.ranges["x"].hi) == (-1, 2)


def test_a_byte_is_within_its_type() -> None:
    proto = model(
        [node("Cast", ["x"], ["f"], to=FLOAT), node("Mul", ["f", "s"], ["y"])],
        {"x": (4, 8)},
        ["y"],
        {"s": np.float32(1 / 255)},
        input_type=TensorProto.UINT8,
    )
    found = estimated(proto).ranges["y"]
    assert (found.lo, found.hi) == pytest.approx((0, 1))


def test_written_out_activations_are_exact() -> None:
    """Branches of one value move together: x * sigmoid(x), and gelu by erf."""
    proto = model(
        [
            node("Sigmoid", ["x"], ["s"]),
            node("Mul", ["x", "s"], ["silu"]),
            node("Div", ["x", "root"], ["d"]),
            node("Erf", ["d"], ["e"]),
            node("Add", ["e", "one"], ["a"]),
            node("Mul", ["x", "a"], ["m"]),
            node("Mul", ["m", "half"], ["gelu"]),
        ],
        {"x": (64, 256)},
        ["silu", "gelu"],
        {"root": np.float32(math.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)},
    )
    estimate = estimated(proto, {"x": (-4, 3)})
    for name, seen in run(proto, {"x": uniform((64, 256), -4, 3)}).items():
        check_covers(estimate, name, seen, 1.05)


def test_parts_of_one_value_do_not_move_together() -> None:
    """a * b of two halves reaches what a * a does not: below 0."""
    proto = model(
        [node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2), node("Mul", ["a", "b"], ["y"])],
        {"x": (64, 256)},
        ["y"],
        opset=18,
    )
    check_covers(
        estimated(proto, {"x": (-1, 1)}), "y", run(proto, {"x": uniform((64, 256), -1, 1)})["y"], 1.2
    )


def test_a_residual_stream_is_followed_through_a_transformer_block() -> None:
    """LayerNorm, attention, residual: what is mixed by Softmax stays within what it mixes."""
    heads = {"shape": ints(0, 0, 4, 8), "back": ints(0, 0, 32)}
    nodes = [node("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1)]
    for part in "qkv":
        nodes += [
            node("MatMul", ["n", f"w{part}"], [f"m{part}"]),
            node("Reshape", [f"m{part}", "shape"], [f"r{part}"]),
            node("Transpose", [f"r{part}"], [f"t{part}"], perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]),
        ]
    nodes += [
        node("MatMul", ["tq", "tk"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "tv"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "back"], ["context"]),
        node("MatMul", ["context", "wo"], ["out"]),
        node("Add", ["x", "out"], ["y"]),
    ]
    random = {f"w{part}": weights(32, 32, seed=i) * 2 for i, part in enumerate("qkvo")}
    constants = {"g": GAMMA, "b": BETA, **heads, **random}
    inner = ["n", "scores", "shares", "context", "out", "y"]
    proto = model(nodes, {"x": ("N", "T", 32)}, inner, constants)
    estimate = estimated(proto, {"x": (-2, 2)})
    assert estimate.basis["n"] == "statistics"
    assert estimate.basis["shares"] == "bounded"
    for name, seen in run(proto, {"x": uniform((4, 24, 32), -2, 2)}).items():
        check_covers(estimate, name, seen, 25 if name == "shares" else 8)


def test_a_one_hot_row_picks_from_the_table() -> None:
    """Embedding as jax writes it: Equal with 0..n-1, Cast, MatMul."""
    table = weights(10, 16)
    proto = model(
        [
            node("Unsqueeze", ["ids", "last"], ["u"]),
            node("Equal", ["u", "numbers"], ["e"]),
            node("Cast", ["e"], ["f"], to=FLOAT),
            node("MatMul", ["f", "table"], ["y"]),
        ],
        {"ids": ("N", 20)},
        ["y"],
        {"last": ints(-1), "numbers": np.arange(10), "table": table},
        input_type=INT64,
    )
    estimate = estimated(proto)
    assert estimate.basis["y"] == "constant"
    assert (estimate.ranges["y"].lo, estimate.ranges["y"].hi) == pytest.approx((table.min(), table.max()))


def test_keys_of_past_tokens_spread_like_those_of_the_present() -> None:
    proto = model(
        [node("LayerNormalization", ["x", "g"], ["n"]), node("Concat", ["past", "n"], ["present"], axis=1)],
        {"x": (1, "T", 32), "past": (1, "P", 32)},
        {"present": (1, None, 32)},
        {"g": GAMMA},
    )
    estimate = estimated(proto)
    for end in ("lo", "hi", "typical"):
        found, wanted = (getattr(estimate.ranges[v], end) for v in ("present", "n"))
        assert found == pytest.approx(wanted, rel=0.05)
    source = from_model(proto).model
    assert "present" not in bounds(prepare(source).model)


# --- norms that exporters write out ------------------------------------------------------------------------------


def rms(scale: str = "Div") -> list[onnx.NodeProto]:
    """x / sqrt(mean(x^2) + eps), or times the inverse."""
    nodes = [
        node("Pow", ["x", "two"], ["square"]),
        node("ReduceMean", ["square"], ["mean"], axes=[-1]),
        node("Add", ["mean", "eps"], ["above"]),
        node("Sqrt", ["above"], ["root"]),
    ]
    if scale == "Div":
        return [*nodes, node("Div", ["x", "root"], ["y"])]
    return [*nodes, node("Div", ["one", "root"], ["inverse"]), node("Mul", ["x", "inverse"], ["y"])]


def centered() -> list[onnx.NodeProto]:
    """LayerNormalization as torch exported it before opset 17."""
    return [
        node("ReduceMean", ["x"], ["m"], axes=[-1]),
        node("Sub", ["x", "m"], ["d"]),
        node("Mul", ["d", "d"], ["square"]),
        node("ReduceMean", ["square"], ["v"], axes=[-1]),
        node("Add", ["v", "eps"], ["above"]),
        node("Sqrt", ["above"], ["root"]),
        node("Div", ["d", "root"], ["y"]),
    ]


def flax() -> list[onnx.NodeProto]:
    """(x - m) * (rsqrt(max(0, mean(x^2) - m^2) + eps) * gain), with sums for means."""
    return [
        node("ReduceSum", ["x", "last"], ["s"]),
        node("Mul", ["s", "nth"], ["m"]),
        node("Mul", ["x", "x"], ["square"]),
        node("ReduceSum", ["square", "last"], ["s2"]),
        node("Mul", ["s2", "nth"], ["m2"]),
        node("Mul", ["m", "m"], ["mm"]),
        node("Sub", ["m2", "mm"], ["v"]),
        node("Max", ["zero", "v"], ["positive"]),
        node("Add", ["positive", "eps"], ["above"]),
        node("Sqrt", ["above"], ["root"]),
        node("Reciprocal", ["root"], ["inverse"]),
        node("Mul", ["inverse", "gain"], ["scale"]),
        node("Sub", ["x", "m"], ["d"]),
        node("Mul", ["d", "scale"], ["y"]),
    ]


def unit(op: str) -> list[onnx.NodeProto]:
    """x / max(|x|, eps)."""
    return [
        node("ReduceL2", ["x"], ["n"], axes=[-1]),
        node(op, ["n", "eps"], ["above"]),
        node("Div", ["x", "above"], ["y"]),
    ]


def softmax() -> list[onnx.NodeProto]:
    return [
        node("Exp", ["x"], ["e"]),
        node("ReduceSum", ["e", "last"], ["s"]),
        node("Div", ["e", "s"], ["y"]),
    ]


CONSTANTS = {
    "two": np.float32(2),
    "one": np.float32(1),
    "zero": np.float32(0),
    "eps": np.float32(1e-6),
    "nth": np.float32(1 / 64),
    "last": ints(-1),
    "gain": uniform((64,), 0.5, 2.0),
}
WRITTEN = {
    "rms-div": rms("Div"),
    "rms-mul": rms("Mul"),
    "layer-norm": centered(),
    "flax": flax(),
    "unit-max": unit("Max"),
    "unit-clip": unit("Clip"),
    "unit-add": unit("Add"),
}


def written(nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    used = {name for n in nodes for name in n.input}
    return model(nodes, {"x": (200, 64)}, ["y"], {k: v for k, v in CONSTANTS.items() if k in used})


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("scale", [0.1, 30])
def test_a_norm_is_known_however_it_is_written(name: str, scale: float) -> None:
    proto = written(WRITTEN[name])
    estimate = estimated(proto)
    assert estimate.basis["y"] == "statistics"
    x = rng(1).standard_normal((200, 64)).astype(np.float32) * scale
    check_covers(estimate, "y", run(proto, {"x": x})["y"], 4)
    one = np.zeros((1, 64), np.float32)
    one[0, 5] = 1e3  # the furthest that a norm goes
    within = bounds(prepare(from_model(proto).model).model)["y"]
    assert within[0] <= run(proto, {"x": np.repeat(one, 200, 0)})["y"].min()
    assert within[1] >= run(proto, {"x": np.repeat(one, 200, 0)})["y"].max() - 1e-3


def test_a_written_out_softmax_is_bounded() -> None:
    estimate = estimated(written(softmax()))
    assert estimate.basis["y"] == "bounded"
    assert (estimate.ranges["y"].lo, estimate.ranges["y"].hi) == (0, 1)


@pytest.mark.parametrize(
    "nodes",
    [
        # x over the deviation of x: what is divided still has its mean.
        [*centered()[:-1], node("Div", ["x", "root"], ["y"])],
        # The norm of something else.
        [*rms()[:-1], node("Div", ["other", "root"], ["y"])],
        # A divisor from which a constant was taken.
        [*rms()[:2], node("Sub", ["mean", "eps"], ["above"]), *rms()[3:]],
    ],
    ids=["not-centered", "another-value", "less-a-constant"],
)
def test_what_only_looks_like_a_norm_is_not_bounded(nodes: Sequence[onnx.NodeProto]) -> None:
    used = {name for n in nodes for name in n.input}
    proto = model(
        nodes, {"x": (200, 64), "other": (200, 64)}, ["y"], {k: v for k, v in CONSTANTS.items() if k in used}
    )
    assert "y" not in bounds(prepare(from_model(proto).model).model)
    assert "y" not in estimated(proto).ranges


# --- what can't be known -----------------------------------------------------------------------------------------


def test_inverses_of_what_may_be_near_0_are_left_out() -> None:
    proto = model([node("Reciprocal", ["x"], ["y"])], {"x": (4, 4)}, ["y"])
    assert set(estimated(proto, {"x": (-1, 1)}).ranges) == {"x"}
    assert set(estimated(proto, {"x": (0.5, 1)}).ranges) == {"x", "y"}


@pytest.mark.parametrize("mask", [-1e4, -1e9, -math.inf, float(np.finfo(np.float32).min)])
def test_masks_are_told_as_masks(mask: float) -> None:
    """plan/calibration_fallback.py keeps what holds masks in float; Softmax ends them."""
    proto = model(
        [
            node("Where", ["keep", "zero", "mask"], ["m"]),
            node("Add", ["x", "m"], ["a"]),
            node("Softmax", ["a"], ["y"]),
        ],
        {"x": (8, 8)},
        ["y"],
        {"keep": np.tri(8) > 0, "zero": np.float32(0), "mask": np.float32(mask)},
    )
    estimate = estimated(proto, {"x": (-3, 3)})
    assert estimate.ranges["a"].masked
    assert not estimate.ranges["y"].masked
    assert estimate.ranges["a"].hi <= 6.1


def branch(name: str) -> onnx.GraphProto:
    made = node("Mul", ["x", "x"], [f"{name}_out"])
    return helper.make_graph([made], name, [], [helper.make_tensor_value_info(f"{name}_out", FLOAT, (4, 4))])


def test_what_a_branch_makes_is_unknown() -> None:
    graph = helper.make_graph(
        [
            helper.make_node(
                "If", ["c"], ["i"], "if", then_branch=branch("then"), else_branch=branch("else")
            ),
            node("Tanh", ["i"], ["y"]),
        ],
        "branches",
        [helper.make_tensor_value_info("c", BOOL, ()), helper.make_tensor_value_info("x", FLOAT, (4, 4))],
        [helper.make_tensor_value_info("y", FLOAT, (4, 4))],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    estimate = estimated(proto, {"x": (-1, 1)})
    assert estimate.basis == {"c": "bounded", "x": "declared", "y": "bounded"}


def test_integers_round_and_wrap_around() -> None:
    """7 / 2 is 3: what a real quotient would be is not said of integers."""
    proto = model(
        [node("Div", ["x", "two"], ["d"]), node("Cast", ["d"], ["y"], to=FLOAT)],
        {"x": (4,)},
        ["y"],
        {"two": np.int64(2)},
        input_type=INT64,
    )
    assert set(estimated(proto, {"x": (0, 9)}).ranges) == {"x"}


def test_an_op_without_a_rule_and_a_broken_one_make_unknowns() -> None:
    graph = ir.from_proto(
        helper.make_model(
            helper.make_graph(
                [
                    helper.make_node("Mystery", ["x"], ["a"], "a", domain="some.where"),
                    helper.make_node("Conv", ["x", "w"], ["b"], "b"),
                    helper.make_node("Transpose", ["x"], ["c"], "c", perm=[0, 7]),
                    helper.make_node("Concat", ["x", ""], ["d"], "d"),
                    helper.make_node("Add", ["x", "e"], ["f"], "f"),
                ],
                "odd",
                [helper.make_tensor_value_info("x", FLOAT, (2, 3))],
                [helper.make_tensor_value_info(n, FLOAT, None) for n in "abcdf"],
                [
                    numpy_helper.from_array(np.float32(1), "w"),
                    numpy_helper.from_array(np.zeros((0, 3), np.float32), "e"),
                ],
            )
        )
    )
    assert propagate(graph, graph, list("abcdf"), {"x": (-1.0, 1.0)}).ranges == {}


def test_values_that_are_not_there_are_left_out() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 2)}, ["y"])
    graph = ir.from_proto(proto)
    assert set(propagate(graph, graph, ["y", "nobody"], {"x": (-1, 1)}).ranges) == {"y"}


@pytest.mark.parametrize("told", [(1.0, -1.0), (-math.inf, 1.0), (math.nan, 1.0), (-3e38, 3e38)])
def test_a_senseless_declared_range_tells_nothing(told: tuple[float, float]) -> None:
    graph = ir.from_proto(model([node("Relu", ["x"], ["y"])], {"x": (2, 2)}, ["y"]))
    assert propagate(graph, graph, ["x", "y"], {"x": told}).ranges == {}


def test_it_says_how_rough_it_is() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["m"]), node("Tanh", ["m"], ["y"])],
        {"x": (4, 8)},
        ["y"],
        {"w": weights(8, 8)},
    )
    said = roughness(estimated(proto, {"x": (-1, 1)}).basis)
    assert all(f"1 {b}" in said for b in ("declared", "bounded", "estimated"))
    assert all(flow.ROUGHNESS[b] in said for b in ("declared", "bounded", "estimated"))


# --- the law of bounds ---------------------------------------------------------------------------------------------

STEPS_OF_A_CHAIN = (
    "Relu",
    "Abs",
    "Neg",
    "Tanh",
    "Clip",
    "Add",
    "Mul",
    "MatMul",
    "Square",
    "Max",
    "Sub",
    "Concat",
)
STEPS_OF_A_CHAIN += ("Transpose", "Reshape", "ReduceSum", "Softmax", "LeakyRelu", "Gelu", "Div", "ReduceMax")


def chain(steps: Sequence[tuple[str, int]]) -> onnx.ModelProto:
    """[4, 4] -> [4, 4] throughout, so that any step may follow any other."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {
        "shape": ints(4, 4),
        "rows": ints(0),
        "columns": ints(1),
        "low": floats(-0.5).reshape(()),
    }
    constants |= {"divisor": np.float32(0.3), "high": np.float32(1.5)}
    names = ["x"]
    for i, (op, pick) in enumerate(steps):
        x, y, other = names[-1], f"v{i}", names[pick % len(names)]
        w = f"w{i}"
        constants[w] = rng(pick).standard_normal((4, 4)).astype(np.float32)
        match op:
            case "Add" | "Mul" | "Max" | "Sub":
                nodes.append(node(op, [x, other if pick % 2 else w], [y]))
            case "MatMul":
                nodes.append(node(op, [w, x] if pick % 3 == 0 else [x, other if pick % 3 == 1 else w], [y]))
            case "Clip":
                nodes.append(node(op, [x, "low", "high"], [y]))
            case "Square":
                nodes.append(node("Mul", [x, x], [y]))
            case "Concat":
                nodes += [
                    node(op, [x, other], [f"c{i}"], axis=0),
                    node("ReduceMean", [f"c{i}", "rows"], [f"r{i}"]),
                ]
                nodes.append(node("Add", [f"r{i}", x], [y]))
            case "Transpose":
                nodes.append(node(op, [x], [y], perm=[1, 0]))
            case "Reshape":
                nodes += [node("Flatten", [x], [f"f{i}"], axis=0), node(op, [f"f{i}", "shape"], [y])]
            case "ReduceSum":
                nodes += [node(op, [x, "rows"], [f"r{i}"]), node("Sub", [x, f"r{i}"], [y])]
            case "ReduceMax":
                nodes += [node(op, [x, "columns"], [f"r{i}"]), node("Add", [x, f"r{i}"], [y])]
            case "Div":
                nodes.append(node(op, [x, "divisor"], [y]))
            case _:
                nodes.append(node(op, [x], [y]))
        names.append(y)
    used = {name for n in nodes for name in n.input}
    made = [name for n in nodes for name in n.output]
    return model(nodes, {"x": (4, 4)}, made, {k: v for k, v in constants.items() if k in used}, opset=20)


GRAPHS = st.lists(st.tuples(st.sampled_from(STEPS_OF_A_CHAIN), st.integers(0, 20)), min_size=1, max_size=7)


@LAW
@given(steps=GRAPHS, lo=st.floats(-3, 3), width=st.floats(0, 3), seed=st.integers(0, 99))
def test_no_value_exceeds_its_bounds(
    steps: Sequence[tuple[str, int]], lo: float, width: float, seed: int
) -> None:
    proto = chain(steps)
    fed = {"x": (lo, lo + width)}
    graph = ir.from_proto(proto)
    within = bounds(graph, fed)
    estimate = propagate(graph, graph, [o.name for o in proto.graph.output], fed)
    corners = np.array([lo, lo + width])[rng(seed).integers(0, 2, (4, 4))].astype(np.float32)
    for x in (uniform((4, 4), lo, lo + width, seed), corners):
        x = np.clip(x, np.float32(lo), np.float32(lo + width))
        for name, seen in run(proto, {"x": x}).items():
            if name in within:
                slack = 1e-3 * (1e-3 + max(map(abs, within[name])))
                assert seen.min() >= within[name][0] - slack, name
                assert seen.max() <= within[name][1] + slack, name
    for name, found in estimate.ranges.items():
        assert found.lo <= 0 <= found.hi
        assert math.isfinite(found.lo) and math.isfinite(found.hi) and math.isfinite(found.typical)
        if name in within:
            assert min(within[name][0], 0) - 1e-9 <= found.lo and found.hi <= max(within[name][1], 0) + 1e-9
