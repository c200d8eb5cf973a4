"""Ranges without samples, against what onnxruntime computes on random inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.calibration.analytic import ROUGHNESS, estimate_ranges, roughness
from qtool.calibration.analytic_rules import BOUNDS, ROWS
from qtool.calibration.ranges import Ranges
from qtool.graph.load import from_model
from qtool.graph.prepare import prepare
from qtool.runtime.session import Session
from tests.graphs import SAMPLE_MODELS, model, node, rng, weights

LO, HI = -2.0, 3.0
IMAGE, ROWS_OF = (4, 8, 6, 6), (64, 32)


def uniform(shape: Sequence[int], lo: float = LO, hi: float = HI, seed: int = 3) -> np.ndarray:
    return rng(seed).uniform(lo, hi, shape).astype(np.float32)


def estimate(
    proto: onnx.ModelProto, declared: Mapping[str, tuple[float, float]] | None = None
) -> tuple[Ranges, dict[str, str]]:
    """The ranges of all values of the prepared model, and what they rest on."""
    source = from_model(proto).model
    prepared = prepare(source, onnxruntime=True).model
    names = [v.name or "" for n in prepared.graph for v in n.outputs]
    return estimate_ranges(source, prepared, names, declared or {})


def run(proto: onnx.ModelProto, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = Session(proto.SerializeToString(), threads=1, optimize=False)
    return dict(zip(session.outputs, session.run(feeds), strict=True))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# op -> shape of the input, constants after it, attributes. The bounds are hard: every value lies within.
HARD: dict[str, tuple[Sequence[int], list[np.ndarray], dict[str, Any]]] = {
    **{op: (ROWS_OF, [], {}) for op in "Abs Neg Exp Erf Sin Cos Relu Softplus Softsign Mish Elu".split()},
    **{op: (ROWS_OF, [], {}) for op in "Sigmoid HardSigmoid Tanh Softmax Celu Selu HardSwish Gelu".split()},
    "LeakyRelu": (ROWS_OF, [], {"alpha": -0.2}),
    "PRelu": (ROWS_OF, [uniform((32,), -1, 1)], {}),
    "Clip": (ROWS_OF, [np.float32(-1), np.float32(2)], {}),
    "Pow": (ROWS_OF, [np.float32(2)], {}),
    **{op: (ROWS_OF, [uniform((32,), 0.5, 2)], {}) for op in "Add Sub Mul Div Max Min".split()},
    "Concat": (ROWS_OF, [uniform((64, 2), -5, 5)], {"axis": 1}),
    "Where": (ROWS_OF, [uniform((64, 1), -5, 5)], {}),
    "Pad": (ROWS_OF, [ints(1, 1, 0, 0)], {}),
    "Transpose": (IMAGE, [], {}),
    "Reshape": (IMAGE, [ints(4, -1)], {}),
    "Split": (ROWS_OF, [ints(10, 22)], {"axis": 1}),
    "MaxPool": (IMAGE, [], {"kernel_shape": [2, 2]}),
    "LSTM": ((4, 8, 6), [weights(1, 40, 6), weights(1, 40, 10)], {"hidden_size": 10}),
}
# Those whose result is a sum over many elements: the reach of a bell, within interval arithmetic.
SUMS: dict[str, tuple[Sequence[int], list[np.ndarray], dict[str, Any]]] = {
    "Conv": (IMAGE, [weights(12, 8, 3, 3), weights(12)], {"pads": [1, 1, 1, 1]}),
    "ConvTranspose": (IMAGE, [weights(8, 6, 3, 3)], {"strides": [2, 2], "group": 2}),
    "MatMul": (ROWS_OF, [weights(32, 24)], {}),
    "Gemm": (ROWS_OF, [weights(24, 32), weights(24)], {"transB": 1, "alpha": 2.0}),
    "AveragePool": (IMAGE, [], {"kernel_shape": [3, 3]}),
    "ReduceMean": (ROWS_OF, [ints(1)], {}),
    "ReduceSum": (ROWS_OF, [ints(1)], {}),
    "LayerNormalization": (ROWS_OF, [uniform((32,), 0.5, 2), uniform((32,), -1, 1)], {}),
    "InstanceNormalization": (IMAGE, [uniform((8,), 0.5, 2), uniform((8,), -1, 1)], {}),
}


def one_op(op: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """A model of one op, and its random input."""
    shape, constants, attributes = {**HARD, **SUMS}[op]
    named = {f"c{i}": c for i, c in enumerate(constants)}
    inputs = ["x", *named]
    if op == "Where":
        named["choice"] = uniform((64, 32)) > 0
        inputs = ["choice", "x", "c0"]
    outputs = ["y", "z"] if op == "Split" else ["y"]
    return model([node(op, inputs, outputs, **attributes)], {"x": shape}, ["y"], named, opset=20), uniform(
        shape
    )


@pytest.mark.parametrize("op", [*HARD, *SUMS])
def test_ranges_contain_what_onnxruntime_computes(op: str) -> None:
    proto, x = one_op(op)
    computed = run(proto, x=x)["y"]
    ranges, basis = estimate(proto, {"x": (LO, HI)})
    width = max(computed.max(), 0.0) - min(computed.min(), 0.0)
    slack = 0.01 * width  # a curve may turn between two of its nodes
    assert ranges["y"].lo - slack <= computed.min() and computed.max() <= ranges["y"].hi + slack
    assert ranges["y"].hi - ranges["y"].lo <= (10 if op in SUMS or op in ("Softmax", "LSTM") else 2.5) * width
    assert basis["y"] in ROUGHNESS
    assert op in ROWS or op in BOUNDS


@pytest.mark.parametrize("op", "Sigmoid HardSigmoid Tanh Softmax Clip Erf LSTM LayerNormalization".split())
def test_bounded_ops_and_norms_need_no_declared_input(op: str) -> None:
    proto, x = one_op(op)
    ranges, basis = estimate(proto)
    assert basis["y"] == ("statistics" if op == "LayerNormalization" else "bounded")
    assert ranges["y"].lo <= run(proto, x=x)["y"].min() and run(proto, x=x)["y"].max() <= ranges["y"].hi


def test_other_ops_are_unknown_without_a_declared_input() -> None:
    proto = model([node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])], {"x": (4, 8)}, ["y"], {"w": weights(8, 8)})  # fmt: skip
    assert estimate(proto) == ({}, {})
    for senseless in ((1.0, -1.0), (-math.inf, 1.0), (math.nan, 1.0)):
        assert estimate(proto, {"x": senseless}) == ({}, {})
    assert estimate(proto, {"x": (-1, 2)})[1] == {"m": "estimated", "y": "estimated"}


def test_batch_norm_statistics_survive_folding() -> None:
    """The convolution has BatchNormalization's beta +- 10 gamma; another one tells what it normalizes."""
    fold = {"g": uniform((8,), 0.5, 2), "b": uniform((8,), -1, 1), "m": uniform((8,), -1, 1), "v": uniform((8,), 0.5, 2)}  # fmt: skip
    proto = model(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("Mul", ["r", "a"], ["s"]),
            node("BatchNormalization", ["s", "g", "b", "m", "v"], ["y"]),
        ],
        {"x": (1, 4, 8, 8), "a": (1, 8, 6, 6)},
        ["s", "y"],
        {"w": weights(8, 4, 3, 3), **fold},
    )
    ranges, basis = estimate(proto)
    assert basis == dict.fromkeys(["n", "r", "s", "y"], "statistics")
    assert ranges["n"].hi == pytest.approx((fold["b"] + 10.1 * fold["g"]).max(), rel=0.02)
    assert ranges["n"].lo == pytest.approx((fold["b"] - 10.1 * fold["g"]).min(), rel=0.02)
    assert (ranges["r"].lo, ranges["r"].hi) == pytest.approx((0, ranges["n"].hi))
    assert ranges["s"].hi == pytest.approx((fold["m"] + 10.1 * np.sqrt(fold["v"])).max(), rel=0.02)


def root_mean_square(last: str) -> list[onnx.NodeProto]:
    """x / sqrt(mean(x^2) + eps), or x * (gain / sqrt(..)) as flax writes it."""
    nodes = [
        node("Mul", ["x", "x"], ["square"]),
        node("ReduceMean", ["square"], ["mean"], axes=[-1]),
        node("Add", ["mean", "eps"], ["above"]),
        node("Sqrt", ["above"], ["root"]),
    ]
    if last == "Div":
        return [*nodes, node("Div", ["x", "root"], ["y"])]
    inverse = [node("Reciprocal", ["root"], ["inverse"]), node("Mul", ["inverse", "gain"], ["scale"])]
    return [*nodes, *inverse, node("Mul", ["x", "scale"], ["y"])]


@pytest.mark.parametrize(("last", "gain"), [("Div", 1.0), ("Mul", 3.0)])
def test_a_norm_in_small_ops_is_a_norm(last: str, gain: float) -> None:
    constants = {"eps": np.float32(1e-6)} | ({"gain": np.float32(gain)} if last == "Mul" else {})
    ranges, basis = estimate(model(root_mean_square(last), {"x": (20, 64)}, ["y"], constants))
    assert basis["y"] == "statistics"
    assert ranges["y"].hi == pytest.approx(10.1 * gain, rel=0.02)


def test_branches_of_one_value_vary_together() -> None:
    """x * sigmoid(x) does not fall below -0.28, though x does and the sigmoid reaches 1."""
    silu = model([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])], {"x": (4, 8)}, ["y"])
    ranges, _ = estimate(silu, {"x": (-6, 6)})
    assert (ranges["y"].lo, ranges["y"].hi) == pytest.approx((-0.278, 5.985), abs=0.01)


def test_inverses_of_values_near_0_have_no_range() -> None:
    proto = model([node("Reciprocal", ["x"], ["y"])], {"x": (4, 4)}, ["y"])
    assert "y" not in estimate(proto, {"x": (-1, 1)})[0]
    assert estimate(proto, {"x": (0.5, 1)})[0]["y"].hi == pytest.approx(2)


@pytest.mark.parametrize("mask", [-1e4, -1e9, -math.inf, float(np.finfo(np.float32).min)])
def test_values_with_masks_are_marked(mask: float) -> None:
    """The calibration fallback keeps it in float; Softmax ends it."""
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
    ranges, _ = estimate(proto, {"x": (-3, 3)})
    assert ranges["a"].masked and not ranges["y"].masked
    assert ranges["a"].hi <= 3.1


def test_unusual_nodes_make_unknown_values() -> None:
    """An op without a row, integer arithmetic, and nodes that the specification does not permit."""
    graph = helper.make_graph(
        [
            helper.make_node("Mystery", ["x"], ["a"], "a", domain="some.where"),
            helper.make_node("Conv", ["x", "w"], ["b"], "b"),
            helper.make_node("Concat", ["x", ""], ["d"], "d"),
            helper.make_node("Div", ["i", "i"], ["e"], "e"),
            helper.make_node("BatchNormalization", ["a", "g", "g", "g", "v"], ["n"], "n"),
            helper.make_node("Tanh", ["a"], ["y"], "y"),
        ],
        "odd",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 3)),
            helper.make_tensor_value_info("i", TensorProto.INT64, (2,)),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "abdey"],
        [
            onnx.numpy_helper.from_array(np.float32(1), "w"),
            onnx.numpy_helper.from_array(np.ones(3, np.float32), "g"),
            onnx.numpy_helper.from_array(np.ones(2, np.float32), "v"),
        ],
    )
    parsed = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    ranges, basis = estimate_ranges(parsed, parsed, [*"abdey", "missing"], {"x": (-1.0, 1.0)})
    assert basis == {"y": "bounded"} == dict.fromkeys(ranges, "bounded")


def test_an_op_on_constant_scalars_alone_has_a_range() -> None:
    """A graph output may be computed of constants: preparation keeps such a node."""
    source = from_model(
        model(
            [node("Neg", ["c"], ["y"]), node("Relu", ["x"], ["z"])],
            {"x": (2,)},
            ["y", "z"],
            {"c": np.float32([3])},
        )
    ).model
    ranges, _ = estimate_ranges(source, source, ["y"], {})
    assert (ranges["y"].lo, ranges["y"].hi) == (-3, 0)


def test_uint8_values_have_the_range_of_their_type() -> None:
    proto = model(
        [node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), node("Mul", ["f", "s"], ["y"])],
        {"x": (4, 8)},
        ["y"],
        {"s": np.float32(1 / 255)},
        input_type=TensorProto.UINT8,
    )
    assert estimate(proto)[0]["y"].hi == pytest.approx(1)


def test_a_trained_model_keeps_its_accuracy(tmp_path: Path) -> None:
    """All of cnn, with its BatchNormalizations, in int8 without a calibration sample: 30 dB."""
    folder = SAMPLE_MODELS / "cnn"
    options = qtool.Options(
        calib="none",
        input_range=["-3,3"],
        data=folder / "eval",
        reading=qtool.Reading(samples=8),
        timing="table",
        effort="fast",
        recover="none",
    )
    report = qtool.quantize(folder / "model.onnx", tmp_path / "q.onnx", options).report
    assert report.comparison is not None and report.comparison.sqnr >= 26
    assert report.quantized_nodes > 20
    assert any(warning.startswith("ranges are estimates (") for warning in report.warnings)


def test_the_report_warns_of_estimated_ranges() -> None:
    assert roughness({}) == ""
    said = roughness({"a": "declared", "b": "bounded", "c": "bounded"})
    assert f"1 declared: {ROUGHNESS['declared']}; 2 bounded: {ROUGHNESS['bounded']}" in said
