"""Values beyond float16 stay in float32, with a reason that names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import qtool
from qtool.calibration.ranges import LOG_UNIT, Range
from qtool.graph.load import from_model
from qtool.graph.prepare import prepare
from qtool.graph.view import View
from qtool.plan.fp16.overflow import find_overflow, fp16_sqnr
from qtool.plan.notes import NESTED, NO_SAMPLES, NOT_FASTER
from qtool.tables.float16 import FLOOR_DB, LARGEST, MARGIN
from tests import graphs
from tests.graphs import node
from tests.rewrite.flow import run
from tests.rewrite.fp16.flow import FLOAT, check, close, converted, element_types
from tests.tiers import examples

SHAPE = (4, 64)
WEIGHTS = {"w": graphs.weights(64, 64), "v": graphs.weights(64, 64, seed=1)}
SAMPLES = graphs.samples(3, x=SHAPE)


def view(proto: onnx.ModelProto) -> View:
    return View(prepare(from_model(proto).model).model)


def observed(lo: float, hi: float, masked: int = 0) -> Range:
    return Range(lo, hi, 10, masked, 0.0, 10)


def adding(array: np.ndarray, then: list[onnx.NodeProto] | None = None, op: str = "Add") -> onnx.ModelProto:
    """x + c, and what comes behind it up to y."""
    nodes = [node(op, ["x", "c"], ["h"], "sum"), *(then or [node("Relu", ["h"], ["y"], "relu")])]
    return graphs.model(nodes, {"x": array.shape or (1,)}, ["y"], {"c": array})


CONSTANTS = {
    "ordinary": ([1.0, -2.0], ""),
    "zeros": ([0.0, 0.0], ""),
    "largest": ([65504.0, -65504.0], ""),
    "beyond": ([1.0, 65505.0], "holds 6.55e+04, beyond float16's 65504"),
    "below": ([-7e4, 1.0], "holds -7e+04, beyond float16's 65504"),
    "infinity": ([np.inf, 1.0], ""),
    "minus-infinity": ([-np.inf, 1.0], ""),
    "infinity-beyond": ([-np.inf, -1e9], "holds -1e+09, beyond float16's 65504"),
    "nan": ([np.nan, 1.0], "holds nan, beyond float16's 65504"),
    "too-small": ([1e-9, 1e-9], "(2 elements) keeps 0 dB in float16, below 60"),
    "one-small": ([1e-5], "(1e-05) keeps 57 dB in float16, below 60"),
    "small-among-large": ([1e-9, 1.0], ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants(case: str) -> None:
    values, reason = CONSTANTS[case]
    assert find_overflow(view(adding(np.array(values, np.float32), op="Mul")), None).get("c", "") == reason


TERMS: dict[str, tuple[float, list[onnx.NodeProto] | None, float | None, bool]] = {
    "of-a-sum": (1e-10, None, 1.0, True),
    "of-a-sum-without-a-range": (1e-10, None, None, True),
    "of-a-sum-as-small": (1e-9, None, 1e-9, False),
    "of-a-divisor": (1e-10, [node("Div", ["x", "h"], ["y"])], 1.0, False),
    "of-the-argument-of-a-root": (1e-10, [node("Sqrt", ["h"], ["y"])], 1.0, False),
}


@pytest.mark.parametrize("case", TERMS)
def test_a_term_is_measured_against_its_sum(case: str) -> None:
    """A bias of 1e-10 vanishes in float32 sums, too; in a divisor it keeps the quotient finite."""
    term, then, size, held = TERMS[case]
    proto = adding(np.full(8, term, np.float32), then)
    logs = None if size is None else round(np.log2(size) * LOG_UNIT * 10)
    ranges = None if logs is None else {"h": Range(-1.0, 1.0, 10, 0, logs, 10)}
    assert ("c" not in find_overflow(view(proto), ranges)) == held


def test_tiny_biases_and_pads_of_minus_infinity_leave_nothing_in_float32() -> None:
    """The pad of a MaxPool, the bias of a convolution, and a mask that is added to scores."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        node("Pad", ["c", "pads", "low"], ["p"], "pad"),
        node("MaxPool", ["p"], ["m"], "pool", kernel_shape=[2, 2]),
        node("Conv", ["m", "v", "b"], ["s"], "second"),
        node("Add", ["s", "mask"], ["a"], "masked"),
        node("Softmax", ["a"], ["y"], "softmax", axis=-1),
    ]
    mask = np.zeros((1, 1, 1, 9), np.float32)
    mask[..., 5:] = -np.inf
    constants = {
        "w": graphs.weights(32, 16, 3, 3),
        "v": graphs.weights(32, 32, 1, 1),
        "b": np.full(32, 1e-10, np.float32),
        "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1]),
        "low": np.asarray(-np.inf, np.float32),
        "mask": mask,
    }
    proto = graphs.model(nodes, {"x": (1, 16, 8, 8)}, ["y"], constants)
    taken = graphs.samples(3, x=(1, 16, 8, 8))
    done = converted(proto, taken)
    assert done.plan.fp16.nodes.keys() >= {"conv", "pool", "second"}
    assert not done.plan.fp16.overflow
    close(done, taken)


def test_an_empty_constant_does_not_overflow() -> None:
    assert find_overflow(view(adding(np.zeros((0, 3), np.float32))), None) == {}


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.floats(-LARGEST, LARGEST, width=32), min_size=1, max_size=8))
def test_a_constant_below_the_floor_is_named(values: list[float]) -> None:
    array = np.array(values, np.float32)
    exact, rounded = array.astype(np.float64), array.astype(np.float16).astype(np.float64)
    noise = np.sum((exact - rounded) ** 2)
    held = "c" not in find_overflow(view(adding(array, op="Mul")), None)
    assert held == (noise == 0 or 10 * np.log10(np.sum(exact**2) / noise) >= FLOOR_DB)


def test_sqnr_is_summed_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    array = graphs.rng().standard_normal(1000).astype(np.float32)
    expected = fp16_sqnr(array)
    monkeypatch.setattr("qtool.plan.fp16.overflow._CHUNK", 7)
    assert fp16_sqnr(array) == pytest.approx(expected)


RANGES = {
    "fits": (observed(-LARGEST / MARGIN, LARGEST / MARGIN), ""),
    "high": (observed(0, LARGEST / MARGIN + 1), "spans 0..3.28e+04, beyond float16's 65504 with a margin of 2"),
    "low": (observed(-4e4, 0), "spans -4e+04..0, beyond float16's 65504 with a margin of 2"),
    "nan": (observed(np.nan, np.nan), "spans nan..nan, beyond float16's 65504 with a margin of 2"),
    "masks": (observed(-1, 1, masked=3), "holds masks beyond float16"),
    "masks-of-minus-infinity": (replace(observed(-1, 1, masked=3), infinite=3), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", RANGES)
def test_ranges(case: str) -> None:
    value_range, reason = RANGES[case]
    assert find_overflow(view(adding(np.ones(2, np.float32))), {"h": value_range}).get("h", "") == reason


BEHIND = {
    "relu": ([node("Relu", ["h"], ["y"])], {"h", "y"}),
    "softmax": ([node("Softmax", ["h"], ["p"]), node("Relu", ["p"], ["y"])], {"h"}),
    "tanh": ([node("Tanh", ["h"], ["t"]), node("Neg", ["t"], ["y"])], {"h"}),
    "clip": ([node("Clip", ["h", "low", "high"], ["t"]), node("Neg", ["t"], ["y"])], {"h"}),
    "half-clip": ([node("Clip", ["h", "low"], ["t"]), node("Neg", ["t"], ["y"])], {"h", "t", "y"}),
    "compared": ([node("Greater", ["h", "low"], ["b"]), node("Where", ["b", "x", "low"], ["y"])], {"h"}),
}  # fmt: skip


@pytest.mark.parametrize("case", BEHIND)
def test_overflow_of_a_constant_spreads_up_to_a_bounded_op(case: str) -> None:
    then, reached = BEHIND[case]
    proto = graphs.model(
        [node("Add", ["x", "c"], ["h"]), *then],
        {"x": (2,)},
        ["y"],
        {"c": np.array([0, -1e9], np.float32), "low": np.float32(-3), "high": np.float32(3)},
    )
    reasons = find_overflow(view(proto), None)
    assert reasons.keys() - {"c"} == reached
    assert all(
        reasons[n] == "is computed from 'c', which holds -1e+09, beyond float16's 65504" for n in reached
    )


def test_an_observed_range_decides() -> None:
    proto = adding(np.array([0, -1e9], np.float32))
    assert find_overflow(view(proto), {"h": observed(-1, 1), "y": observed(0, 1)}).keys() == {"c"}


@pytest.mark.parametrize("inside", [False, True])
def test_overflow_spreads_into_and_out_of_a_loop(inside: bool) -> None:
    """A constant inside reaches the next iteration."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["c"], ["d"]), node("Add", ["s", "k" if inside else "one"], ["u"])],
        "body",
        [info("i", 7, []), info("c", 9, []), info("s", FLOAT, [2])],
        [info("d", 9, []), info("u", FLOAT, [2])],
    )
    add = node("Add", ["x", "one" if inside else "k"], ["h"])
    constants = {"k": np.array([0, 1e9], np.float32), "one": np.ones(2, np.float32)}
    constants |= {"three": np.array(3), "yes": np.array(True)}
    nodes = [add, node("Loop", ["three", "yes", "h"], ["y"], body=body)]
    reached = find_overflow(view(graphs.model(nodes, {"x": (2,)}, {"y": (2,)}, constants)), None).keys()
    assert {"s", "u", "y"} <= reached
    assert ("h" in reached) is not inside


def wide(factor: float) -> onnx.ModelProto:
    """A product whose outputs are as large as asked, and back."""
    nodes = [
        node("MatMul", ["x", "big"], ["h"], "first"),
        node("Relu", ["h"], ["r"], "relu"),
        node("MatMul", ["r", "small"], ["m"], "second"),
        node("MatMul", ["m", "v"], ["y"], "third"),
    ]
    constants = {"big": WEIGHTS["w"] * factor, "small": WEIGHTS["w"] / factor, "v": WEIGHTS["v"]}
    return graphs.model(
        nodes, {"x": SHAPE}, {"y": SHAPE}, {k: v.astype(np.float32) for k, v in constants.items()}
    )


def test_activations_that_would_overflow_stay_float32_and_are_named() -> None:
    made = converted(wide(3e4), SAMPLES)
    check(made)
    assert close(made, SAMPLES) > 50
    assert "third" in made.fp16_nodes
    for name, value in (("first", "output 'h'"), ("second", "input 'r'")):
        assert made.reasons[name].startswith(f"its {value} spans ")
        assert made.reasons[name].endswith("beyond float16's 65504 with a margin of 2")


def test_a_note_says_that_no_samples_were_run() -> None:
    assert NO_SAMPLES in converted(wide(3e4)).notes
    assert NO_SAMPLES not in converted(wide(3e4), SAMPLES).notes


def test_samples_of_data_alone_show_what_overflows(tmp_path: Path) -> None:
    options = qtool.Options(mode="fp16", data=SAMPLES, timing="table")
    result = qtool.quantize(wide(3e4), tmp_path / "h.onnx", options)
    assert NO_SAMPLES not in result.report.warnings
    assert {"first", "second"} <= {skip.node for skip in result.plan.skips}


@pytest.mark.parametrize("mode", ["fp16", "static"])
def test_a_set_node_that_would_overflow_stays_float32(mode: str) -> None:
    made = converted(wide(3e4), SAMPLES, mode=mode, target="generic", sets=["first=fp16"])
    assert "first" not in made.fp16_nodes
    assert made.reasons["first"].startswith("its output 'h' spans ")
    assert all(np.isfinite(o["y"]).all() for o in run(made.data, SAMPLES))


PORTS = {
    "input": ([node("Mul", ["x", "tiny"], ["h"]), node("MatMul", ["h", "w"], ["y"], "product")], 5e4, "x"),
    "output": ([node("MatMul", ["x", "w"], ["h"], "product"), node("Pow", ["h", "two"], ["y"])], 6e2, "y"),
}  # fmt: skip


@pytest.mark.parametrize("case", PORTS)
def test_inputs_and_outputs_beyond_float16_keep_their_type_and_are_named(case: str) -> None:
    nodes, size, name = PORTS[case]
    proto = graphs.model(
        nodes, {"x": SHAPE}, {"y": SHAPE}, {**WEIGHTS, "tiny": np.float32(1e-4), "two": np.float32(2)}
    )
    samples = [{"x": s["x"] * np.float32(size)} for s in SAMPLES]
    made = converted(proto, samples, io="float16")
    check(made)
    assert close(made, samples) > 45
    types = element_types(made.proto)
    assert {k for k in ("x", "y") if types[k] == FLOAT} == {name}
    (note,) = [n for n in made.notes if n.startswith("--io float16")]
    assert note.startswith(f"--io float16: '{name}' stays float32: it spans ")


def test_a_note_says_that_float16_is_not_faster_on_a_cpu() -> None:
    assert converted(wide(1), SAMPLES).notes == [NOT_FASTER]
    assert "not faster on a CPU" in NOT_FASTER
    assert converted(wide(1), SAMPLES, mode="weight-only").notes == []
    assert NESTED not in converted(wide(1), SAMPLES).notes
