"""Shapes are those of the arrays that onnxruntime gives."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array
from onnx_ir import from_proto

from qtool.calibration.runner import shapes_of
from qtool.data.iterables import InMemory
from tests.plan.flow import ready
from tests.rewrite.zoo import CASES


@pytest.mark.parametrize("name", ["residual", "conv-bn-relu6", "transformer", "lstm-y-unused"])
def test_shapes_of_all_values_of_a_model(name: str) -> None:
    case = CASES[name]
    job = ready(case.build())
    samples = case.samples()
    actual = shapes_of(job.model, list(job.view.values), InMemory(list(samples)), threads=1)
    for input_name, array in samples[0].items():
        assert actual[input_name] == array.shape
    for value in job.model.graph.outputs:
        declared = value.shape
        assert declared is not None
        assert len(actual[value.name or ""]) == len(declared)
    made = {v.name for n in job.model.graph for v in n.outputs if v.name}
    assert made <= actual.keys()
    for name_, shape in actual.items():
        declared = job.view.values[name_].shape
        for ours, theirs in zip(shape, declared or (), strict=False):
            assert not isinstance(theirs, int) or ours == theirs


def test_only_named_values_are_fetched() -> None:
    case = CASES["residual"]
    job = ready(case.build())
    samples = case.samples()
    some = list(samples[0])[:1]
    actual = shapes_of(job.model, [*some, "no such value"], InMemory(list(samples)), threads=1)
    assert actual == {name: samples[0][name].shape for name in some}


def test_outputs_of_different_sizes_may_have_one_name() -> None:
    """As detectors are exported: the runtime shares memory between axes of one name."""
    nodes, outputs = [], []
    for level, size in enumerate((8, 4, 2)):
        pool = {"kernel_shape": [8 // size] * 2, "strides": [8 // size] * 2}
        nodes += [
            make_node("MaxPool", ["x"], [f"p{level}"], **pool),
            make_node("Reshape", [f"p{level}", "flat"], [f"r{level}"]),
            make_node("Sigmoid", [f"r{level}"], [f"y{level}"]),
        ]
        outputs.append(make_tensor_value_info(f"y{level}", TensorProto.FLOAT, [1, "anchors"]))
    x = make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, "height", "width"])
    flat = from_array(np.array([1, -1]), "flat")
    proto = make_model(make_graph(nodes, "g", [x], outputs, [flat]), opset_imports=[make_opsetid("", 17)])
    samples = InMemory([{"x": np.ones((1, 4, 8, 8), np.float32)}])
    actual = shapes_of(from_proto(proto), ["y0", "y1", "y2"], samples, threads=1)
    assert actual == {"y0": (1, 256), "y1": (1, 64), "y2": (1, 16)}
