"""A PRelu of one slope is a LeakyRelu."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.graph.prepare.slopes import merge_slopes
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched, foreign, ops
from tests.graphs import model, node, weights


def prelu(slope: np.ndarray) -> onnx.ModelProto:
    return model([node("PRelu", ["x", "k"], ["y"])], {"x": (2, 3, 4, 4)}, ["y"], {"k": slope})


@pytest.mark.parametrize("slope", [0.25, 0.0, -1.5, 2.0, 0.1])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (1, 3, 1, 1)], ids=str)
def test_one_slope_makes_a_leaky_relu(slope: float, shape: tuple[int, ...]) -> None:
    proto = prelu(np.full(shape, slope, np.float32))
    made, note = applied(proto, merge_slopes)
    assert "1 PRelu" in note
    assert ops(made) == ["LeakyRelu"]
    assert_alike(proto, made)


def test_other_slopes_stay() -> None:
    assert_untouched(prelu(weights(3, 1, 1)), merge_slopes)
    assert_untouched(prelu(np.full((3, 1, 1), np.nan, np.float32)), merge_slopes)
    assert_untouched(foreign(prelu(np.full((1,), 0.5, np.float32)), "PRelu"), merge_slopes)


def test_a_fed_slope_stays() -> None:
    proto = model([node("PRelu", ["x", "k"], ["y"])], {"x": (2, 3), "k": (3,)}, ["y"])
    assert_untouched(proto, merge_slopes)
