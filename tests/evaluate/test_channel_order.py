"""Colours in the wrong order are doubted by what FP32 makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.data.iterables import InMemory
from qtool.evaluate.channel_order import reversed_channels
from qtool.runtime.session import Session
from tests.graphs import model, node, rng


def redness(*, softmax: bool) -> Session:
    """A classifier that is sure of red images, and of no others."""
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "w"], ["m"]),
        node("Softmax" if softmax else "Identity", ["m"], ["y"]),
    ]
    w = np.array([[9, 0], [0, 0], [0, 0]], np.float32)
    return Session(model(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 2)}, {"w": w}).SerializeToString(), threads=1)


def images(count: int, order: list[int]) -> InMemory:
    """Images that are more red than blue, by chance not each of them."""
    means = rng().normal([0.6, 0.4, 0.3], 0.2, (count, 3))[:, order, None, None].astype(np.float32)
    return InMemory([{"x": np.broadcast_to(m, (1, 3, 8, 8)).copy()} for m in means])


@pytest.mark.parametrize("softmax", [True, False])
def test_colours_in_the_wrong_order_are_doubted(softmax: bool) -> None:
    fp32 = redness(softmax=softmax)
    assert "'x'" in reversed_channels(fp32, images(64, [2, 1, 0]), {})
    for count, order in ((64, [0, 1, 2]), (15, [2, 1, 0])):
        assert not reversed_channels(fp32, images(count, order), {})


def test_colours_that_decide_nothing_are_not_doubted() -> None:
    grey = InMemory([{"x": np.full((1, 3, 8, 8), v, np.float32)} for v in rng().normal(0.5, 0.2, 32)])
    assert not reversed_channels(redness(softmax=True), grey, {})
