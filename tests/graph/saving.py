"""A model to save, and its way to a file: helpers of the tests of saving and of temporary folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from qtool.graph.save import staged
from tests.graphs import model, node, weights


def net(seed: int = 0) -> ir.Model:
    """A model with a tensor that is worth a side file and one that is not."""
    return ir.from_proto(
        model(
            [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
            {"x": (1, 4)},
            {"y": (1, 300)},
            {"w": weights(4, 300, seed=seed), "b": np.ones((1,), np.float32)},
        )
    )


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def commit(target: Path, made: ir.Model) -> None:
    """Write a model to its place by way of a staged file."""
    with staged(target) as staging:
        staging.write(made)
        staging.commit()
