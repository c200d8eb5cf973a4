"""Bias correction, against the whole model run anew for each bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.graph.save import to_bytes
from qtool.graph.view import View
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.plan.serial import from_json, to_json
from qtool.plan.validate import validate_plan
from qtool.recover.bias_correction import Bias, bias_correction, find_biases
from qtool.rewrite.simulate.simulated import simulated
from qtool.rewrite.write import correct_biases, rewrite
from tests.graphs import node, rng, weights
from tests.plan.build import model
from tests.plan.flow import Sample, candidate, ready
from tests.recover.oracle import memory, values_of
from tests.rewrite.flow import run
from tests.rewrite.zoo import CASES
from tests.tiers import in_turn, sample

FORMS: tuple[dict[str, Any], ...] = (
    {"mode": "static"},
    {"mode": "dynamic"},
    {"mode": "weight-only", "bits": 4},
    {"mode": "fp16"},
)


def network() -> onnx.ModelProto:
    """Convolutions with and without bias, a transposed one, a Gemm, a norm, and a product with its Add."""
    return model(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"]),
            node("ConvTranspose", ["r1", "w2", "b2"], ["c2"], strides=[2, 2]),
            node("Relu", ["c2"], ["r2"]),
            node("GlobalAveragePool", ["r2"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w3", "b3"], ["h"], transB=1),
            node("LayerNormalization", ["h", "gain", "shift"], ["n"], axis=-1),
            node("MatMul", ["n", "w4"], ["m"]),
            node("Add", ["m", "b4"], ["y"]),
        ],
        {"x": [1, 3, 8, 8]},
        ["y"],
        {
            "w0": weights(16, 3, 3, 3) * 3, "b0": weights(16, seed=1),
            "w1": weights(16, 16, 3, 3, seed=2) * 2,
            "w2": weights(16, 24, 2, 2, seed=3), "b2": weights(24, seed=4),
            "w3": weights(40, 24, seed=5) * 3, "b3": weights(40, seed=6),
            "gain": rng(7).uniform(0.5, 2, 40).astype(np.float32), "shift": weights(40, seed=8),
            "w4": weights(40, 20, seed=9), "b4": weights(20, seed=10),
        },
    )  # fmt: skip


def pictures(count: int = 6, seed: int = 0) -> list[Sample]:
    random = rng(seed)
    return [{"x": random.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def done_of(case: str, form: dict[str, Any]) -> tuple[Candidate, Sequence[Sample]]:
    if case == "network":
        return candidate(network(), pictures(), **form), pictures()
    return candidate(CASES[case].build(), CASES[case].samples(), **form), CASES[case].samples()


def means(model: ir.Model, bias: Bias, inputs: Sequence[Sample]) -> np.ndarray:
    arrays = (values[bias.result] for values in values_of(model, [bias.result], inputs))
    flat = [np.moveaxis(a, bias.axis, -1).reshape(-1, a.shape[bias.axis]) for a in arrays]
    return np.asarray(np.concatenate(flat).astype(np.float64).mean(axis=0))


def with_all(model: ir.Model, plan: Plan) -> ir.Model:
    """The simulated model with a plan's corrections."""
    clone = model.clone()
    correct_biases(clone, plan)
    return simulated(clone, plan)


def one_by_one(model: ir.Model, plan: Plan, inputs: Sequence[Sample]) -> Plan:
    plan = replace(plan, corrections={})
    for bias in find_biases(View(model)):
        offset = means(model, bias, inputs) - means(with_all(model, plan), bias, inputs)
        plan = replace(plan, corrections={**plan.corrections, bias.name: tuple(offset.tolist())})
    return plan


CORRECTED = [
    "network",
    "conv-bn-relu6",
    "mobile-block",
    "mlp-gemm",
    "mlp-matmul",
    "transformer",
    "dead-channels",
]


@pytest.mark.parametrize(("case", "form"), in_turn(CORRECTED, FORMS), ids=str)
def test_corrections_are_those_of_the_whole_model_bias_by_bias(case: str, form: dict[str, Any]) -> None:
    done, inputs = done_of(case, form)
    plan = bias_correction(done.model.view, done.plan, memory(inputs), threads=1)
    slow = one_by_one(done.model.model, done.plan, inputs).corrections
    assert plan.corrections.keys() <= slow.keys()
    after = with_all(done.model.model, plan)
    for bias in find_biases(done.model.view):
        outputs = values_of(done.model.model, [bias.result], inputs)
        size = np.std(np.concatenate([o[bias.result].ravel() for o in outputs]))
        actual = plan.corrections.get(bias.name, np.zeros(len(slow[bias.name])))
        np.testing.assert_allclose(actual, slow[bias.name], atol=3e-3 * size, rtol=0, err_msg=bias.name)
        left = means(done.model.model, bias, inputs) - means(after, bias, inputs)
        assert np.abs(left).max() <= 3e-3 * size, bias


@pytest.mark.parametrize("case", CORRECTED[:3])
def test_unquantized_models_need_no_correction(case: str) -> None:
    done, inputs = done_of(case, {"mode": "static"})
    nothing = replace(done.plan, sites=(), forms={}, outlier_columns={})
    actual = bias_correction(done.model.view, nothing, memory(inputs), threads=1).corrections
    assert all(np.abs(c).max() < 1e-5 for c in actual.values())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_corrections_are_computed_anew_and_the_same_every_time(form: dict[str, Any]) -> None:
    done, inputs = done_of("network", form)
    once = bias_correction(done.model.view, done.plan, memory(inputs), threads=1)
    second = bias_correction(done.model.view, once, memory(inputs), threads=1)
    assert once == second
    assert replace(once, corrections={}) == done.plan


@pytest.mark.parametrize(("case", "form"), in_turn(sample(tuple(CASES), 3), FORMS), ids=str)
def test_the_plan_is_valid_and_the_written_model_runs(case: str, form: dict[str, Any]) -> None:
    done, inputs = done_of(case, form)
    plan = bias_correction(done.model.view, done.plan, memory(inputs), threads=1)
    assert not validate_plan(plan, done.model.view)
    back = from_json(to_json(plan), "plan.json")
    written = to_bytes(rewrite(done.model.model, plan))
    assert back.corrections == plan.corrections and to_bytes(rewrite(done.model.model, back)) == written
    run(written, inputs)


def test_progress_counts_biases() -> None:
    done, inputs = done_of("network", {"mode": "static"})
    told: list[tuple[int, int]] = []
    bias_correction(done.model.view, done.plan, memory(inputs), 1, lambda *counts: told.append(counts))
    assert told == [(n, 5) for n in range(1, 6)]


def found_in(proto: onnx.ModelProto) -> list[tuple[str, str, int]]:
    return [(b.name, b.result, b.axis) for b in find_biases(ready(proto).view)]


def test_biases_of_every_kind_are_found_in_order() -> None:
    wanted = [("b0", "c0", 1), ("b2", "c2", 1), ("b3", "h", -1), ("shift", "n", -1), ("b4", "y", -1)]
    assert found_in(network()) == wanted


@pytest.mark.parametrize(
    ("case", "refused"),
    [("shared-weights", "two read it"), ("residual", "two read it"), ("gemm-row-bias", "of rows"),
     ("silu", "there is none"), ("colliding-names", "of no layer"), ("embedding", "there is none")],
)  # fmt: skip
def test_constants_that_are_not_one_layers_bias_are_skipped(case: str, refused: str) -> None:
    assert found_in(CASES[case].build()) == [], refused


def test_a_bias_that_is_an_output_too_is_left_alone() -> None:
    proto = network()
    proto.graph.output.append(onnx.helper.make_tensor_value_info("b3", onnx.TensorProto.FLOAT, [40]))
    assert "b3" not in {name for name, _, _ in found_in(proto)}


@pytest.mark.parametrize(
    ("shape", "op"), in_turn([(s,) for s in ((1,), (1, 1), (1, 24), (24,), ())], ["Gemm", "Add"]), ids=str
)
def test_a_bias_has_a_value_for_each_channel(op: str, shape: tuple[int, ...]) -> None:
    ends = {
        "Gemm": [node("Gemm", ["x", "w", "c"], ["y"])],
        "Add": [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "c"], ["y"])],
    }[op]
    c = np.full(shape, 0.25, np.float32)
    done = candidate(
        model(ends, {"x": [4, 32]}, ["y"], {"w": weights(32, 24), "c": c}), CASES["mlp-gemm"].samples()
    )
    assert all(b.name for b in find_biases(done.model.view))
    plan = bias_correction(done.model.view, done.plan, memory(CASES["mlp-gemm"].samples()), threads=1)
    assert not validate_plan(plan, done.model.view)
    run(to_bytes(rewrite(done.model.model, plan)), CASES["mlp-gemm"].samples())


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_beta_of_a_gemm_is_taken_into_account(beta: float) -> None:
    proto = model(
        [node("Gemm", ["x", "w", "c"], ["y"], beta=beta)],
        {"x": ["N", 32]}, ["y"], {"w": weights(32, 24), "c": weights(24, seed=1)},
    )  # fmt: skip
    inputs = CASES["mlp-gemm"].samples()
    done = candidate(proto, inputs, "cpu-avx2", include=["*"])  # whose sums do not saturate on any CPU
    plan = bias_correction(done.model.view, done.plan, memory(inputs), threads=1)
    assert plan.corrections
    floats, after = (run(to_bytes(m), inputs) for m in (done.model.model, rewrite(done.model.model, plan)))
    left = np.concatenate([a["y"] - b["y"] for a, b in zip(floats, after, strict=True)]).mean(axis=0)
    assert np.abs(left).max() < 1e-3
