"""A plan that is read back from a file has the scales, uses and weights of the plan that was written."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.graph.load import from_model
from qtool.graph.prepare import with_names
from qtool.plan.metadata import hidden_metadata, read_hidden
from qtool.plan.model import Kind, OutlierColumns, Plan, Scaled
from qtool.plan.read_back.plan import ReadPlan, read_plan
from qtool.plan.resolve import dequantized
from qtool.rewrite.writer import float_array
from tests.graphs import model, node, weights
from tests.rewrite.flow import write
from tests.rewrite.zoo import CASES


def read(case: str, target: str = "generic", **options: object) -> tuple[Plan, ReadPlan, ir.Model]:
    row = CASES[case]
    written = write(row.build(), row.samples(), target, **options)
    prepared = written.candidate.model.model
    quantized = with_names(from_model(written.proto).model)
    return written.plan, read_plan(quantized, prepared, written.plan.mode, target), prepared


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("case", ["residual", "mobile-block", "mlp-gemm", "transformer"])
def test_scales_and_weights(case: str, form: str) -> None:
    plan, back, prepared = read(case, format=form)
    assert not back.unmatched
    assert back.fit > 0.99
    written = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
    back_sites = {s.value: s for s in back.plan.sites if s.kind is Kind.ACTIVATION}
    assert back_sites.keys() <= written.keys()
    for name, site in back_sites.items():
        assert site.qparams == written[name].qparams
    stored = {s.value: s for s in plan.sites if s.kind is Kind.WEIGHT}
    assert stored
    values = {v.name: v for v in prepared.graph.initializers.values()}
    for name, site in stored.items():
        expected = dequantized(site, float_array(values[name]))
        np.testing.assert_allclose(back.weights[name].array, expected, rtol=1e-6, atol=1e-9)


def test_a_weight_is_known_by_its_values_where_names_differ() -> None:
    proto = model(
        [node("MatMul", ["x", "w"], ["y"], name="first")], {"x": (2, 64)}, ["y"], {"w": weights(64, 32)}
    )
    scale = np.float32(0.01)
    q = np.rint(weights(64, 32) / scale).astype(np.int8)
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["d"], name="dq"),
        node("MatMul", ["x", "d"], ["z"], name="renamed"),
    ]
    other = model(nodes, {"x": (2, 64)}, ["z"], {"q": q, "s": scale})
    back = read_plan(
        with_names(from_model(other).model), with_names(from_model(proto).model), "static", "generic"
    )
    assert back.weights["w"].scale == "s"
    np.testing.assert_allclose(back.weights["w"].array, q * scale)


def test_an_operator_that_is_not_known_is_named() -> None:
    made = onnx.helper.make_node("QMoE", ["x"], ["y"], name="experts", domain="com.microsoft")
    graph = onnx.helper.make_graph(
        [made],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    quantized = ir.from_proto(onnx.helper.make_model(graph))
    back = read_plan(with_names(quantized), with_names(quantized), "static", "generic")
    assert back.unmatched == ("experts",)


def test_hidden_parts_of_a_plan_are_read_from_metadata() -> None:
    scaled = {"w": (Scaled(0, (0.5, 4.0)),)}
    columns = {"x": OutlierColumns((3, 7), -1.5, 2.0)}
    plan = Plan("static", "cpu", "", {}, (), (), scaled=scaled, outlier_columns=columns)
    assert read_hidden(hidden_metadata(plan), "m.onnx") == (scaled, columns)
    assert hidden_metadata(Plan("static", "cpu", "", {}, (), ())) == {}
