"""Gemm's alpha and beta become part of its constants."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.graph.prepare.gemm import normalize_gemm
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graphs import model, node, weights

CONSTANTS = {"w": weights(4, 5), "b": weights(5)}


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (1.0, 0.25), (-3.0, -2.0), (0.0, 0.25), (0.5, 0.0)])
def test_factors_go_into_the_constants(alpha: float, beta: float) -> None:
    proto = model(
        [node("Gemm", ["x", "w", "b"], ["y"], alpha=alpha, beta=beta)], {"x": (2, 4)}, ["y"], CONSTANTS
    )
    made, note = applied(proto, normalize_gemm)
    assert "1 Gemm" in note
    assert not {"alpha", "beta"} & set(made.graph[0].attributes)
    assert_alike(proto, made)


@pytest.mark.parametrize("bias", [(5,), (1,), (1, 5), (2, 5), (2, 1), ()], ids=str)
def test_a_bias_of_any_shape_is_scaled(bias: tuple[int, ...]) -> None:
    proto = model(
        [node("Gemm", ["x", "w", "b"], ["y"], alpha=2.0, beta=0.5)],
        {"x": (2, 4)},
        ["y"],
        {"w": CONSTANTS["w"], "b": np.asarray(weights(*bias), np.float32)},
    )
    made, _ = applied(proto, normalize_gemm)
    assert made.graph[0].inputs[2].const_value.numpy().shape == bias
    assert_alike(proto, made)


def test_transposed_operands_keep_being_transposed() -> None:
    proto = model(
        [node("Gemm", ["x", "w"], ["y"], alpha=2.0, transA=1, transB=1)],
        {"x": (4, 2)},
        ["y"],
        {"w": weights(5, 4)},
    )
    made, _ = applied(proto, normalize_gemm)
    assert set(made.graph[0].attributes) == {"transA", "transB"}
    assert_alike(proto, made)


def test_alpha_alone_leaves_a_computed_bias_as_it_is() -> None:
    proto = model(
        [node("Gemm", ["x", "w", "z"], ["y"], alpha=2.0)],
        {"x": (2, 4), "z": (5,)},
        ["y"],
        {"w": CONSTANTS["w"]},
    )
    made, note = applied(proto, normalize_gemm)
    assert note
    assert_alike(proto, made)


def test_beta_alone_leaves_a_computed_weight_as_it_is() -> None:
    proto = model(
        [node("Gemm", ["x", "z", "b"], ["y"], beta=2.0)],
        {"x": (2, 4), "z": (4, 5)},
        ["y"],
        {"b": CONSTANTS["b"]},
    )
    made, note = applied(proto, normalize_gemm)
    assert note
    assert_alike(proto, made)


def test_beta_without_a_bias_is_dropped() -> None:
    proto = model(
        [node("Gemm", ["x", "w"], ["y"], beta=2.0, alpha=0.5)], {"x": (2, 4)}, ["y"], {"w": CONSTANTS["w"]}
    )
    made, _ = applied(proto, normalize_gemm)
    assert_alike(proto, made)


def test_shared_constants_are_copied_not_changed() -> None:
    proto = model(
        [
            node("Gemm", ["x", "w", "b"], ["p"], alpha=2.0, beta=3.0),
            node("Gemm", ["x", "w", "b"], ["q"]),
            node("Add", ["p", "q"], ["y"]),
        ],
        {"x": (2, 4)},
        ["y"],
        CONSTANTS,
    )
    made, _ = applied(proto, normalize_gemm)
    np.testing.assert_array_equal(made.graph.initializers["w"].const_value.numpy(), CONSTANTS["w"])
    assert ops(made) == ["Gemm", "Gemm", "Add"]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        (["x", "w", "b"], {}),
        (["x", "w", "b"], {"alpha": 1.0, "beta": 1.0}),
        (["x", "z", "b"], {"alpha": 2.0}),
        (["x", "w", "c"], {"beta": 2.0}),
        (["x", "z", "b"], {"alpha": 2.0, "beta": 2.0}),
        (["x", "w", "c"], {"alpha": 2.0, "beta": 2.0}),
    ],
    ids=["none", "ones", "computed-weight", "computed-bias", "alpha-computed-weight", "beta-computed-bias"],
)
def test_computed_operands_are_left_alone(inputs: list[str], attributes: dict[str, float]) -> None:
    proto = model(
        [node("Gemm", inputs, ["y"], **attributes)],
        {"x": (2, 4), "z": (4, 5), "c": (5,)},
        ["y"],
        {k: v for k, v in CONSTANTS.items() if k in inputs},
    )
    assert_untouched(proto, normalize_gemm)


def test_a_factor_that_overflows_is_left_alone() -> None:
    proto = model(
        [node("Gemm", ["x", "w"], ["y"], alpha=1e30)],
        {"x": (2, 4)},
        ["y"],
        {"w": np.full((4, 5), 1e20, np.float32)},
    )
    assert_untouched(proto, normalize_gemm)
