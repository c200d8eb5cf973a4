"""Small stored weights that err most stay in float; large ones, and those of other modes, do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.data.memory import InMemory
from qtool.job import open_job
from qtool.keeping import kept_float
from qtool.options import Options, silent
from qtool.plan.model import Kind
from qtool.planning import Planned, Planner

INPUTS, WIDTH = 16, 64


def model() -> onnx.ModelProto:
    """A product with a large matrix, and one with a small one of which one weight dwarfs all others."""
    random = np.random.default_rng(0)
    large = random.standard_normal((WIDTH, 64 * WIDTH)).astype(np.float32)
    small = random.standard_normal((INPUTS, WIDTH)).astype(np.float32)
    small[0, :] *= 300
    nodes = [
        helper.make_node("MatMul", ["x", "small"], ["y"], name="first"),
        helper.make_node("MatMul", ["y", "large"], ["z"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, INPUTS])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 64 * WIDTH])],
        [numpy_helper.from_array(small, "small"), numpy_helper.from_array(large, "large")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def planned(mode: str = "static") -> tuple[Planned, InMemory]:
    random = np.random.default_rng(1)
    scale = np.ones(INPUTS, np.float32)
    scale[0] = 1 / 300  # what is large in one is small in the other
    samples = [{"x": random.standard_normal((2, INPUTS)).astype(np.float32) * scale} for _ in range(4)]
    options = Options(mode=mode, threads=1)
    source = InMemory(samples, len(samples))
    job = open_job(model(), options)
    floats = {"first": "a test", "second": "a test"} if mode == "static" else {}
    return Planner(job, source, silent).plan(replace(job.wish, keep_float=floats)), source


def stored(of: Planned) -> set[str]:
    return {s.value for s in of.plan.sites if s.kind is Kind.STORED}


def test_the_small_loud_one_stays_in_float() -> None:
    before, source = planned()
    assert stored(before) == {"small", "large"}
    after = kept_float(before, source)
    assert stored(after) == {"large"}


@pytest.mark.parametrize("mode", ["weight-only", "fp16"])
def test_where_weights_are_the_aim_nothing_changes(mode: str) -> None:
    before, source = planned(mode)
    assert kept_float(before, source) is before
