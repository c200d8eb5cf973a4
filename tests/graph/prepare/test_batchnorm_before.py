"""BatchNormalization is folded into the product after it, and only where that is the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.affine import fold_affine
from qtool.graph.prepare.shapes import infer_shapes
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, ops
from tests.graph.prepare.test_batchnorm import norm, statistics
from tests.graphs import model, node, weights

# name -> (the product after it, the shape of x, further constants, what is left)
AFTER: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], dict[str, np.ndarray], list[str]]] = {
    "conv": ([node("Conv", ["n", "w"], ["y"])], (1, 4, 6, 6), {"w": weights(5, 4, 3, 3)}, ["Conv"]),
    "conv-valid": (
        [node("Conv", ["n", "w", "b"], ["y"], auto_pad="VALID", strides=[2, 2])],
        (1, 4, 6, 6),
        {"w": weights(5, 4, 3, 3), "b": weights(5)},
        ["Conv"],
    ),
    "conv-grouped": (
        [node("Conv", ["n", "w"], ["y"], group=2)],
        (1, 4, 6, 6),
        {"w": weights(6, 2, 3, 3)},
        ["Conv"],
    ),
    "gemm": ([node("Gemm", ["n", "w"], ["y"])], (2, 4), {"w": weights(4, 5)}, ["Gemm"]),
    "gemm-transposed": (
        [node("Gemm", ["n", "w", "b"], ["y"], transB=1)],
        (2, 4),
        {"w": weights(5, 4), "b": weights(1, 5)},
        ["Gemm"],
    ),
    "matmul": ([node("MatMul", ["n", "w"], ["y"])], (2, 4), {"w": weights(4, 5)}, ["MatMul", "Add"]),
    "matmul-biased": (
        [node("MatMul", ["n", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
        (2, 4),
        {"w": weights(4, 5), "b": weights(5)},
        ["MatMul", "Add"],
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_it_becomes_part_of_the_product_after_it(name: str) -> None:
    after, shape, constants, left = AFTER[name]
    proto = model([norm("x", "n"), *after], {"x": shape}, ["y"], {**constants, **statistics(4)})
    made, note = applied(proto, infer_shapes, fold_affine)
    assert ops(made) == left
    assert "1 BatchNormalization" in note
    assert_alike(proto, made)


def test_before_a_convolution_that_pads_only_a_scale_is_folded() -> None:
    after = node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])
    constants = {"w": weights(5, 3, 3, 3), **statistics(3)}
    proto = model([norm("x", "n"), after], {"x": (1, 3, 6, 6)}, ["y"], constants)
    assert_untouched(proto, fold_affine)
    zero = np.zeros(3, np.float32)
    proto = model(
        [norm("x", "n"), after], {"x": (1, 3, 6, 6)}, ["y"], {**constants, "mean": zero, "beta": zero}
    )
    made, _ = applied(proto, fold_affine)
    assert ops(made) == ["Conv"]
    assert_alike(proto, made)


@pytest.mark.parametrize(
    ("after", "shape"),
    [
        ([node("ConvTranspose", ["n", "w"], ["y"])], (1, 3, 6, 6)),
        ([node("Conv", ["n", "w"], ["y"]), node("Relu", ["n"], ["z"])], (1, 3, 6, 6)),
        ([node("Conv", ["n", "w"], ["y"]), node("Conv", ["x", "w"], ["z"])], (1, 3, 6, 6)),
        ([node("MatMul", ["n", "k"], ["y"])], (1, 3, 3)),
    ],
    ids=["transposed", "another-consumer", "a-shared-weight", "a-matmul-of-three-axes"],
)
def test_before_other_products_it_is_left_alone(after: list[onnx.NodeProto], shape: tuple[int, ...]) -> None:
    constants = {"w": weights(3, 3, 1, 1), "k": weights(3, 3), **statistics(3)}
    read = {i for n in (norm("x", "n"), *after) for i in n.input}
    outputs = [n.output[0] for n in after]
    proto = model(
        [norm("x", "n"), *after], {"x": shape}, outputs, {k: v for k, v in constants.items() if k in read}
    )
    assert_untouched(proto, infer_shapes, fold_affine)
