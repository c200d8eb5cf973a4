"""A model of two products behind an activation with a few outlier columns, far beyond all others."""

from __future__ import annotations

import numpy as np
import onnx

from tests.graphs import model, node, rng, weights

WIDTH, LOUD = 128, (5, 40)


def proto(bias: bool = True, axes: int = 3) -> onnx.ModelProto:
    """Relu(x) @ a (+ bias), and Relu(x) @ b."""
    ends = [node("MatMul", ["h", "a"], ["p" if bias else "y"]), node("MatMul", ["h", "b"], ["z"])]
    if bias:
        ends.append(node("Add", ["p", "c"], ["y"]))
    shape = {3: (2, 8, WIDTH), 2: (16, WIDTH)}[axes]
    return model(
        [node("Tanh", ["x"], ["t"]), node("Mul", ["t", "size"], ["h"]), *ends],
        {"x": shape},
        ["y", "z"],
        {
            "size": np.where(np.isin(np.arange(WIDTH), LOUD), 60, 1).astype(np.float32),
            "a": weights(WIDTH, 96),
            "b": weights(WIDTH, 72, seed=1),
            "c": weights(96, seed=2),
        },
    )


def samples(count: int = 16, axes: int = 3) -> list[dict[str, np.ndarray]]:
    shape = {3: (2, 8, WIDTH), 2: (16, WIDTH)}[axes]
    return [{"x": rng(i).standard_normal(shape).astype(np.float32)} for i in range(count)]
