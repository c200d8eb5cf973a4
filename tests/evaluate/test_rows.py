"""Outputs whose number of rows depends on data: rows are matched, lost and extra ones counted, and all judged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.data.iterables import InMemory
from qtool.evaluate.compare import Comparison, Measures, compare
from qtool.evaluate.rows import row_outputs
from qtool.runtime.session import Session
from tests.graphs import node, rng, samples, weights, write_samples

I64 = {"one": [1], "axis": [0], "k": 40}
F32 = {"half": 0.5, "low": 0.0, "scale": 1.0}


def _graph(
    nodes: list[onnx.NodeProto], outputs: dict[str, tuple[int, list[Any]]], **constants: np.ndarray
) -> onnx.ModelProto:
    """A model of x [1, 60, 8] with outputs of types and shapes."""
    values = {name: np.asarray(v, np.int64) for name, v in I64.items()}
    values |= {name: np.asarray(v, np.float32) for name, v in F32.items()} | constants
    used = {i for n in nodes for i in n.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 60, 8])],
        [helper.make_tensor_value_info(name, *row) for name, row in outputs.items()],
        [onnx.numpy_helper.from_array(v, name) for name, v in values.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def detector(noise: float = 0.0, bias: float = 0.0, kept: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Boxes of 60 places, selected by NonMaxSuppression, with the indices."""
    grid = np.tile(np.arange(60, dtype=np.float32)[:, None] * 10, (1, 4)) + np.array([0, 0, 8, 8], np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["d"]),
        node("Add", ["d", "grid"], ["all"]),
        node("MatMul", ["x", "v"], ["logits"]),
        node("Add", ["logits", "bias"], ["shifted"]),
        node("Transpose", ["shifted"], ["scores"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["all", "scores", "k", "half", "low"], ["selected"]),
        node("Squeeze", ["all", "axis"], ["flat"]),
        node("Split", ["selected"], ["batch", "class", "box"], axis=1),
        node("Squeeze", ["box", "one"], ["index"]),
        node("Gather", ["flat", "index"], ["boxes"], axis=0),
    ]
    outputs: dict[str, tuple[int, list[Any]]] = {
        "boxes": (TensorProto.FLOAT, ["M", 4]),
        "selected": (TensorProto.INT64, ["M", 3]),
    }
    w = weights(8, 4) + noise * weights(8, 4, seed=7)
    return _graph(
        nodes,
        {name: row for name, row in outputs.items() if name in kept or not kept},
        w=w.astype(np.float32),
        v=(weights(8, 1, seed=1) + noise * weights(8, 1, seed=8)).astype(np.float32),
        grid=grid,
        bias=np.asarray(bias, np.float32),
    )


def nonzero(shift: float = 0.0) -> onnx.ModelProto:
    """The places [3, M] of positive values, and the values [M]."""
    nodes = [
        node("Add", ["x", "shift"], ["s"]),
        node("Greater", ["s", "low"], ["p"]),
        node("NonZero", ["p"], ["places"]),
        node("Transpose", ["places"], ["t"]),
        node("GatherND", ["s", "t"], ["values"]),
    ]
    outputs: dict[str, tuple[int, list[Any]]] = {
        "places": (TensorProto.INT64, [3, "M"]),
        "values": (TensorProto.FLOAT, ["M"]),
    }
    return _graph(nodes, outputs, shift=np.asarray(shift, np.float32))


DATA = samples(6, x=(1, 60, 8))


def judged(a: onnx.ModelProto, b: onnx.ModelProto, data: list[dict[str, np.ndarray]] = DATA) -> Comparison:
    rows = row_outputs(ir.from_proto(a))
    sessions = (Session(m.SerializeToString(), threads=1) for m in (a, b))
    return compare(*sessions, InMemory(data), Measures(rows=rows))


def test_boxes_are_matched_by_their_indices() -> None:
    """Side by side, one lost box shifts all that follow it."""
    actual = judged(detector(), detector(0.05))
    boxes, selected = actual.outputs
    sets = [
        [{tuple(r) for r in Session(m.SerializeToString()).run(s, ["selected"])[0]} for s in DATA]
        for m in (detector(), detector(0.05))
    ]
    both = sum(len(a & b) for a, b in zip(*sets, strict=True))
    assert 0 < both < sum(map(len, sets[0]))
    for output in (boxes, selected):
        assert output.matched == both
        assert output.lost == sum(map(len, sets[0])) - both
        assert output.extra == sum(map(len, sets[1])) - both
    assert boxes.sqnr > 40
    assert selected.unequal == 3 * (selected.lost + selected.extra)
    assert boxes.agreement == pytest.approx(2 * both / (2 * both + boxes.lost + boxes.extra))


def test_boxes_without_indices_are_matched_with_the_nearest() -> None:
    (boxes,) = judged(detector(kept=("boxes",)), detector(0.05, kept=("boxes",))).outputs
    (by_index, _) = judged(detector(), detector(0.05)).outputs
    assert (boxes.matched, boxes.lost, boxes.extra) == (by_index.matched, by_index.lost, by_index.extra)
    assert boxes.sqnr == pytest.approx(by_index.sqnr)


def test_equal_models_agree_in_all_rows() -> None:
    actual = judged(detector(), detector())
    assert actual.sqnr == math.inf
    assert all(o.agreement == 1 and not o.lost and not o.extra for o in actual.outputs)
    assert not actual.caveats


def test_rows_along_the_last_axis_are_matched() -> None:
    places, values = judged(nonzero(), nonzero(0.01)).outputs
    assert places.matched == values.matched
    assert places.extra == values.extra > 0
    assert places.lost == 0
    assert values.sqnr > 35


def test_rows_that_are_all_lost_leave_nothing_to_judge(tmp_path: Path) -> None:
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file, bias in zip(files, (0.0, -100.0), strict=True):
        onnx.save(detector(bias=bias), file)
    data = write_samples(tmp_path / "data", DATA)
    report = qtool.compare(*files, data, qtool.Comparing(fail_if=["sqnr<5"]))
    assert any(g.failed and "nothing to judge" in g.why for g in report.gates if g.gate.metric == "sqnr")
    assert any(g.failed for g in report.gates if g.gate.metric == "agreement")
    assert any("'boxes' is not judged" in w for w in report.warnings)


def test_rows_that_no_model_has_are_named() -> None:
    a = detector(bias=-100.0)
    actual = judged(a, a)
    assert math.isnan(actual.sqnr)
    assert [line.split("'")[1] for line in actual.caveats] == ["boxes", "selected"]


@pytest.mark.parametrize(
    ("op", "counted"),
    [("NonZero", True), ("Compress", True), ("Unique", True), ("TopK", True), ("Relu", False)],
)
def test_outputs_behind_ops_that_count_data_are_known(op: str, counted: bool) -> None:
    nodes = {
        "NonZero": [node("NonZero", ["x"], ["y"])],
        "Compress": [node("Greater", ["f", "low"], ["p"]), node("Compress", ["f", "p"], ["y"], axis=0)],
        "Unique": [node("Unique", ["f"], ["y"])],
        "TopK": [
            node("Cast", ["f"], ["i"], to=TensorProto.INT64),
            node("ReduceMax", ["i"], ["m"], keepdims=1),
            node("TopK", ["f", "m"], ["y", "places"]),
        ],
        "Relu": [node("Relu", ["f"], ["y"])],
    }[op]
    flat = [node("Reshape", ["x", "any"], ["f"])]
    proto = _graph([*flat, *nodes], {"y": (TensorProto.FLOAT, ["M"])}, any=np.asarray([-1], np.int64))
    assert bool(row_outputs(ir.from_proto(proto))) is counted


def test_a_batch_is_not_counted_by_data() -> None:
    proto = detector()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "M"
    assert not row_outputs(ir.from_proto(proto))


@pytest.mark.parametrize("kept", [(), ("selected",)], ids=["boxes", "indices-alone"])
def test_a_detector_is_quantized_and_its_rows_are_judged(tmp_path: Path, kept: tuple[str, ...]) -> None:
    data = [{"x": rng(i).standard_normal((1, 60, 8)).astype(np.float32)} for i in range(16)]
    calib = write_samples(tmp_path / "calib", data)
    options = qtool.Options(
        calib=calib, target="cpu-avx2", timing="table", effort="fast", include=["op:MatMul"]
    )
    result = qtool.quantize(detector(kept=kept), tmp_path / "q.onnx", options)
    report = result.report
    assert report.comparison is not None
    selected = report.comparison.outputs[-1]
    assert selected.matched > 0
    assert selected.agreement > 0.9
    (gate,) = [g for g in report.gates if g.gate.metric == "agreement"]
    assert not gate.failed
    assert result.ok
    assert "nan" not in report.to_markdown()
