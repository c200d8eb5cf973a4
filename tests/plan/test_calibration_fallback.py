"""The calibration fallback: nodes whose ranges do not suit int8 go back to float, with their reason."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from qtool.tables.forms import Form
from qtool.tables.targets import TARGETS
from tests.graphs import node, rng, samples, weights
from tests.plan.build import model
from tests.plan.flow import candidate, reasons
from tests.rewrite.zoo import CASES
from tests.targets import COMMON


def test_outliers_keep_a_linear_in_float() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["y"], name="n")], {"x": [4, 64]}, ["y"], {"w": weights(64, 64)}
    )
    wild = samples(4, x=(4, 64))
    for sample in wild:
        sample["x"][:, 0] = 4000
    for target in COMMON:
        plan = candidate(proto, wild, target).plan
        assert "n" not in plan.forms
        assert "outliers" in reasons(plan)["n"]
        assert "n" in candidate(proto, samples(4, x=(4, 64)), target).plan.forms


@pytest.mark.parametrize("mask", [-np.inf, float(np.finfo(np.float32).min)], ids=["-inf", "-FLT_MAX"])
def test_nodes_behind_a_mask_stay_in_float(mask: float) -> None:
    """At a scale that covers -inf, all scores would be one integer."""
    hidden = np.triu(np.full((6, 6), mask, np.float32), 1)
    nodes = [
        node("MatMul", ["x", "w"], ["q"], name="q"),
        node("MatMul", ["q", "k"], ["scores"], name="scores"),
        node("Where", ["allowed", "scores", "mask"], ["masked"], name="where"),
        node("Softmax", ["masked"], ["p"], name="softmax"),
        node("MatMul", ["p", "v"], ["y"], name="mix"),
    ]
    proto = model(
        nodes,
        {"x": [1, 6, 32], "k": [1, 32, 6]},
        ["y"],
        {"w": weights(32, 32), "v": weights(6, 200), "mask": hidden, "allowed": hidden == 0},
    )
    plan = candidate(proto, samples(4, x=(1, 6, 32), k=(1, 32, 6))).plan
    assert "softmax" not in plan.forms
    assert reasons(plan)["softmax"]
    assert {"q", "mix"} <= plan.forms.keys()


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_nodes_that_never_ran_in_calibration_stay_in_float(target: str) -> None:
    row = CASES["embedding"]
    empty = [{"ids": s["ids"][:, :0]} for s in row.samples()]
    plan = candidate(row.build(), empty, target).plan
    assert not plan.forms
    assert "never executed" in reasons(plan)["MatMul_y"]


def test_some_empty_samples_do_no_harm() -> None:
    """A KV cache starts with a past of length zero."""
    row = CASES["embedding"]
    mixed = [{"ids": s["ids"][:, :0]} if i % 2 else s for i, s in enumerate(row.samples())]
    assert "MatMul_y" in candidate(row.build(), mixed).plan.forms


@pytest.mark.parametrize("target", ["cpu", "generic"])
def test_a_branch_that_never_runs_still_stores_its_weights(target: str) -> None:
    row = CASES["if-weights"]
    positive = [{"x": np.abs(s["x"])} for s in row.samples()]
    plan = candidate(row.build(), positive, target).plan
    names = reasons(plan)
    assert ("too small" if TARGETS[target].onnxruntime else "If") in names["no_mm"]
    assert "no_w" in {s.value for s in plan.sites}


def test_a_constant_activation_does_no_harm() -> None:
    """All zeros: any scale holds it, and no division by zero follows."""
    row = CASES["residual"]
    zeros = [{"x": np.zeros_like(s["x"])} for s in row.samples()]
    plan = candidate(row.build(), zeros).plan
    assert all(np.isfinite(s.qparams.scale).all() for s in plan.sites if s.qparams is not None)


def test_sparse_activations_are_no_outliers() -> None:
    """Zeros are exact at any scale, so that a ReLU's zeros lose nothing."""
    proto = model([node("Gemm", ["x", "w"], ["y"], name="n")], {"x": [4, 64]}, ["y"], {"w": weights(64, 64)})
    random = rng(4)
    sparse = [{"x": s["x"] * (random.random((4, 64)) < 0.02)} for s in samples(4, x=(4, 64))]
    assert "n" in candidate(proto, sparse).plan.forms


@pytest.mark.parametrize(("target", "size"), [("cpu", 32), ("cpu", 128), ("generic", 128)])
def test_a_loop_s_body_is_quantized_at_run_time_or_stored(target: str, size: int) -> None:
    """Its activations can't be observed. onnxruntime quantizes them at run time, unless the weights are small."""
    body = helper.make_graph(
        [
            node("MatMul", ["state", "wl"], ["next"], name="inner"),
            node("Identity", ["go"], ["go_on"], name="keep"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [4, size]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [4, size]),
        ],
    )
    proto = model(
        [node("Loop", ["three", "", "x"], ["y"], body=body)],
        {"x": [4, size]},
        ["y"],
        {"wl": weights(size, size), "three": np.array(3)},
    )
    plan = candidate(proto, samples(3, x=(4, size)), target).plan
    if target == "cpu" and size == 128:
        assert plan.forms == {"inner": Form.DYNAMIC}
        assert {s.value for s in plan.sites} == {"wl", "state"}
    else:
        assert ("Loop" if target == "generic" else "too small") in reasons(plan)["inner"]
        assert {s.value for s in plan.sites} == {"wl"}
