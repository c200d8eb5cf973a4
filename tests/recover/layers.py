"""Pairs of layers with ops between them, for tests of channel scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from tests.graphs import Shape, node, rng, weights
from tests.plan.build import model

FED, WIDTH = 32, 48


def linear(
    between: Sequence[onnx.NodeProto] = (),
    constants: Mapping[str, np.ndarray] | None = None,
    outputs: Sequence[str] = ("y",),
    reads: str = "h",
    after: Sequence[onnx.NodeProto] = (),
) -> onnx.ModelProto:
    """x @ w0 + b0 = a; what is between makes `reads` of a; reads @ w1 = y."""
    return model(
        [
            node("Gemm", ["x", "w0", "b0"], ["a"]),
            *(between or [node("Identity", ["a"], ["h"])]),
            node("MatMul", [reads, "w1"], ["y"]),
            *after,
        ],
        {"x": ["N", FED]},
        list(outputs),
        {"w0": weights(FED, WIDTH) * 10, "b0": weights(WIDTH, seed=1), "w1": weights(WIDTH, FED, seed=2) * 5, **(constants or {})},
    )  # fmt: skip


def convs(
    between: Sequence[onnx.NodeProto] = (),
    constants: Mapping[str, np.ndarray] | None = None,
    reads: str = "h",
    shape: Shape = (1, 3, 8, 8),
    **second: Any,
) -> onnx.ModelProto:
    """Conv a, what is between makes `reads` of it, Conv y with `second` as its attributes."""
    return model(
        [
            node("Conv", ["x", "w0", "b0"], ["a"], pads=[1, 1, 1, 1]),
            *(between or [node("Relu", ["a"], ["h"])]),
            node("Conv", [reads, "w1"], ["y"], **second),
        ],
        {"x": list(shape)},
        ["y"],
        {
            "w0": weights(WIDTH, 3, 3, 3) * 5,
            "b0": weights(WIDTH, seed=1),
            "w1": weights(12, WIDTH, 1, 1, seed=2) * 5,
            **(constants or {}),
        },
    )


def uneven(samples: int = 8, seed: int = 3) -> list[dict[str, np.ndarray]]:
    random = rng(seed)
    return [{"x": random.standard_normal((4, FED)).astype(np.float32)} for _ in range(samples)]


def pictures(samples: int = 8, seed: int = 3) -> list[dict[str, np.ndarray]]:
    random = rng(seed)
    return [{"x": random.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(samples)]
