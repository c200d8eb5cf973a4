"""Denormal weights are 0."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.graph.prepare.denormals import flush_denormals
from tests.graph.prepare.alike import applied, assert_alike, assert_untouched
from tests.graphs import model, node, weights

TINY = np.float32(1e-39)


@pytest.mark.parametrize("sign", [1, -1])
def test_among_others_they_are_0(sign: int) -> None:
    array = weights(4, 3)
    array[1] = sign * TINY
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 4)}, ["y"], {"w": array})
    made, note = applied(proto, flush_denormals)
    assert note == "3 denormal weights are 0"
    kept = made.graph.initializers["w"].const_value
    assert kept is not None
    assert not kept.numpy()[1].any()
    assert np.array_equal(np.delete(kept.numpy(), 1, 0), np.delete(array, 1, 0))
    assert_alike(proto, made)


@pytest.mark.parametrize(
    "array",
    [weights(4, 3), np.full((4, 3), TINY), np.zeros((4, 3), np.float32), np.full((4, 3), np.nan, np.float32)],
    ids=["none", "nothing else", "zeros", "nan"],
)
def test_what_stays(array: np.ndarray) -> None:
    assert_untouched(
        model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 4)}, ["y"], {"w": array}), flush_denormals
    )
