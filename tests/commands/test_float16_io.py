"""--io float16: where rounding the input alone misses the gate, that is said, and no node pays for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qtool
from tests.graphs import model, node, samples, weights


@pytest.mark.parametrize(("offset", "misses"), [(1000.0, True), (0.0, False)])
def test_the_ports_are_measured_before_any_node_goes_back(
    offset: float, misses: bool, tmp_path: Path
) -> None:
    """Near 1000 float16 has steps of 0.5, and the model looks at differences of 1."""
    nodes = [
        node("Sub", ["x", "o"], ["d"]),
        node("MatMul", ["d", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    constants = {
        "o": np.full((1, 64), offset, np.float32),
        "w": weights(64, 64),
        "v": weights(64, 64, seed=1),
    }
    proto = model(nodes, {"x": (4, 64)}, ["y"], constants)
    taken = [{"x": s["x"] + np.float32(offset)} for s in samples(12, x=(4, 64))]
    options = qtool.Options(mode="fp16", io="float16", calib=taken, timing="table")
    result = qtool.quantize(proto, tmp_path / "o.onnx", options)
    assert bool(result.report.failed) == misses
    assert any("--io float16 costs" in w and "'x'" in w for w in result.report.warnings) == misses
    assert len(result.plan.fp16.nodes) == 4
