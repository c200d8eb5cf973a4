"""Models as exporters and optimizers leave them are quantized as if they had been written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qtool
from qtool.runtime.session import Session
from tests.graph.prepare.test_pads import chain
from tests.graphs import Shape, model, node, rng, samples, weights, write_samples

IMAGE = (1, 8, 12, 12)
Case = tuple[onnx.ModelProto, list[dict[str, np.ndarray]], int]


def he(*shape: int, seed: int = 0) -> np.ndarray:
    return (rng(seed).standard_normal(shape) * 1.4 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def pads() -> Case:
    """F.pad before a strided depthwise convolution between two others."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        *chain("b", "c"),
        node("Conv", ["c", "w2"], ["d"], strides=[2, 2], group=32),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", "w3"], ["y"]),
    ]
    held = {"w1": he(32, 8, 3, 3), "w2": he(32, 1, 3, 3), "w3": he(32, 32, 1, 1)}
    held |= {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4]), "minus": np.array([-1])}
    held |= {"last": np.array([0, 1, 0, 1]), "rows": np.array([-1, 2]), "end": np.array([-(2**63) + 1])}
    return model(nodes, {"x": IMAGE}, ["y"], held), samples(12, x=IMAGE), 5


def sums() -> Case:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Conv", ["a", "w2"], ["b"], pads=[1, 1, 1, 1]),
        node("Sum", ["a", "b"], ["c"]),
        node("Conv", ["c", "w2"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return model(nodes, {"x": IMAGE}, ["y"], {"w1": he(32, 8, 3, 3), "w2": he(32, 32, 3, 3)}), samples(12, x=IMAGE), 4  # fmt: skip


def half_weights() -> Case:
    nodes = [node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["x", "f"], ["y"])]
    proto = model(nodes, {"x": (16, 64)}, ["y"], {"w": weights(64, 64).astype(np.float16)})
    return proto, samples(12, x=(16, 64)), 1


def of(kind: int, nodes: list[onnx.NodeProto], shapes: dict[str, Shape], held: dict[str, np.ndarray]) -> onnx.ModelProto:  # fmt: skip
    x, y = (helper.make_tensor_value_info(name, kind, shapes[name]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(v, k) for k, v in held.items()])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def half() -> Case:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2"], ["y"], pads=[1, 1, 1, 1]),
    ]
    held = {k: v.astype(np.float16) for k, v in {"w1": he(32, 8, 3, 3), "w2": he(32, 32, 3, 3)}.items()}
    made = [{"x": s["x"].astype(np.float16)} for s in samples(12, x=IMAGE)]
    return of(TensorProto.FLOAT16, nodes, {"x": IMAGE, "y": (1, 32, 12, 12)}, held), made, 3


def group_norm() -> Case:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        node("GroupNormalization", ["a", "g", "b"], ["n"], num_groups=8),
        node("Conv", ["n", "w2"], ["y"], pads=[1, 1, 1, 1]),
    ]
    held = {"w1": he(32, 8, 3, 3), "w2": he(32, 32, 3, 3), "g": weights(8) + 1, "b": weights(8)}
    return of(TensorProto.FLOAT, nodes, {"x": IMAGE, "y": (1, 32, 12, 12)}, held), samples(12, x=IMAGE), 2


def optimized() -> Case:
    nodes = [
        node("Gelu", ["x"], ["a"], domain="com.microsoft"),
        node("MatMul", ["a", "w1"], ["b"]),
        node("BiasGelu", ["b", "v"], ["c"], domain="com.microsoft"),
        node("FusedMatMul", ["c", "w2"], ["y"], domain="com.microsoft", transB=1, alpha=0.5),
    ]
    held = {"w1": he(64, 96), "v": weights(96), "w2": he(64, 96, seed=1)}
    return of(TensorProto.FLOAT, nodes, {"x": (16, 64), "y": (16, 64)}, held), samples(12, x=(16, 64)), 2


@pytest.mark.parametrize("case", [pads, sums, half_weights, half, group_norm, optimized])
def test_what_an_exporter_leaves_is_quantized_alike_with_and_without_optimizations(
    case: Callable[[], Case], tmp_path: Path
) -> None:
    proto, made, nodes = case()
    folder = write_samples(tmp_path / "calib", made)
    options = qtool.Options(calib=str(folder), target="cpu-avx2", effort="fast", timing="table")
    result = qtool.quantize(proto, str(tmp_path / "int8.onnx"), options)
    assert result.report.quantized_nodes == nodes
    expected = Session(proto.SerializeToString()).run(made[0])[0]
    for optimize in (False, True):
        (y,) = Session(tmp_path / "int8.onnx", optimize=optimize).run(made[0])
        assert y.dtype == expected.dtype
        error = (y.astype(np.float64) - expected) ** 2
        assert 10 * np.log10((expected.astype(np.float64) ** 2).sum() / error.sum()) > 25
