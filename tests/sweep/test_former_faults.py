"""Faults that the sweep has found, each in its smallest form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.errors import ModelError
from qtool.runtime.session import Session
from tests.graphs import model, node, samples, weights
from tests.sweep.ways import avoid_saturation, settle_speed

FLOAT = TensorProto.FLOAT


@pytest.fixture(autouse=True)
def speed_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    settle_speed(monkeypatch)
    avoid_saturation(monkeypatch)


def quantized(proto: onnx.ModelProto, sample: dict[str, Any], path: Path, **options: Any) -> qtool.Result:
    calib = [sample] if options.get("mode", "static") == "static" else None
    return qtool.quantize(
        proto, path / "q.onnx", qtool.Options(calib=calib, data=[sample], threads=1, force=True, **options)
    )


def scan_8() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A running sum of products, as opset 8 has it: every input with a batch axis."""
    infos = {n: helper.make_tensor_value_info(n, FLOAT, [64]) for n in ("s", "e", "t", "o")}
    body = helper.make_graph(
        [node("Add", ["s", "e"], ["t"]), node("Identity", ["t"], ["o"])],
        "body",
        [infos["s"], infos["e"]],
        [infos["t"], infos["o"]],
    )
    proto = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Scan", ["", "i", "m"], ["f", "y"], body=body, num_scan_inputs=1),
        ],
        {"x": (1, 3, 64), "i": (1, 64)},
        {"f": (1, 64), "y": (1, 3, 64)},
        {"w": weights(64, 64)},
        opset=8,
    )
    return proto, samples(1, x=(1, 3, 64), i=(1, 64))[0]


@pytest.mark.parametrize("target", ["cpu", "generic"])
@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only", "fp16"])
def test_a_scan_of_opset_8_keeps_its_batch_axis_and_gets_smaller(
    mode: str, target: str, tmp_path: Path
) -> None:
    proto, sample = scan_8()
    report = quantized(proto, sample, tmp_path, mode=mode, target=target).report
    assert report.size_ratio < 0.6
    assert report.comparison is not None and report.comparison.sqnr > 30


def test_integer_ports_need_an_opset_that_has_integers(tmp_path: Path) -> None:
    proto, sample = scan_8()
    with pytest.raises(ModelError, match="integer inputs and outputs need"):
        quantized(proto, sample, tmp_path, io="uint8")


@pytest.mark.parametrize("axis", [2, 6, 64, 1000])
def test_a_softmax_of_small_values_is_not_zero(axis: int, tmp_path: Path) -> None:
    """QLinearSoftmax overflows where the scale is far finer than the length of the axis allows."""
    proto = model([node("Softmax", ["x"], ["y"])], {"x": (4, axis)}, ["y"])
    sample = {"x": samples(1, x=(4, axis))[0]["x"] * 0.01}
    quantized(proto, sample, tmp_path, target="generic", include=["*"], gate="none")
    expected = Session(proto.SerializeToString()).run(sample)[0]
    got = Session(tmp_path / "q.onnx").run(sample)[0]
    np.testing.assert_allclose(got, expected, atol=2 / 256 / axis)


@pytest.mark.parametrize("options", [{"include": ["*"]}, {"target": "generic"}, {"io": "uint8"}], ids=str)
def test_a_dilated_average_pool_stays_float_and_loads(options: dict[str, Any], tmp_path: Path) -> None:
    pool = node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])
    proto = model([pool], {"x": (1, 4, 8, 8)}, ["y"], opset=19, ir_version=9)
    result = quantized(proto, samples(1, x=(1, 4, 8, 8))[0], tmp_path, **options)
    assert not result.plan.forms
    assert result.report.comparison is not None and result.report.comparison.sqnr > 30


@pytest.mark.parametrize("odd", [-np.inf, -3.4e38], ids=str)
def test_an_integer_port_with_a_mask_stays_float_and_is_named(odd: float, tmp_path: Path) -> None:
    proto = model([node("Add", ["x", "mask"], ["h"]), node("Softmax", ["h"], ["y"])], {"x": (2, 6), "mask": (2, 6)}, ["y"])  # fmt: skip
    mask = np.where(np.arange(12).reshape(2, 6) % 2, 0, odd).astype(np.float32)
    result = quantized(proto, {**samples(1, x=(2, 6))[0], "mask": mask}, tmp_path, io="uint8")
    types = {i.name: i.type for i in Session(tmp_path / "q.onnx").inputs.values()}
    assert types == {"x": "tensor(uint8)", "mask": "tensor(float)"}
    assert any("'mask' stays float32" in warning for warning in result.report.warnings)
    assert result.report.comparison is not None and result.report.comparison.sqnr > 20


def test_an_integer_port_that_is_always_empty_stays_float(tmp_path: Path) -> None:
    proto = model([node("Concat", ["x", "z"], ["y"], axis=0)], {"x": (2, 3), "z": (0, 3)}, {"y": (2, 3)})
    sample = {**samples(1, x=(2, 3))[0], "z": np.zeros((0, 3), np.float32)}
    quantized(proto, sample, tmp_path, io="int8")
    assert Session(tmp_path / "q.onnx").inputs["z"].type == "tensor(float)"


def test_scales_that_decide_a_shape_are_not_integer_ports(tmp_path: Path) -> None:
    resize = node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    proto = model([resize], {"x": (1, 1, 4, 4), "scales": (4,)}, {"y": (1, 1, 10, 10)})
    sample = {**samples(1, x=(1, 1, 4, 4))[0], "scales": np.array([1, 1, 2.5, 2.5], np.float32)}
    result = quantized(proto, sample, tmp_path, io="uint8")
    assert Session(tmp_path / "q.onnx").inputs["scales"].type == "tensor(float)"
    assert any("'scales' stays float32" in warning for warning in result.report.warnings)


def test_a_model_of_another_domain_alone_can_have_integer_ports(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")],
        "ml",
        [helper.make_tensor_value_info("x", FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", FLOAT, [2, 3])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 2)], ir_version=8)
    result = quantized(proto, samples(1, x=(2, 3))[0], tmp_path, io="uint8")
    assert result.report.comparison is not None and result.report.comparison.sqnr > 20


def test_a_sequence_stays_one(tmp_path: Path) -> None:
    """Its type is inferred, and is not that of its elements."""
    proto = model(
        [
            node("SequenceConstruct", ["x", "x"], ["s"]),
            node("ConcatFromSequence", ["s"], ["c"], axis=0),
            node("MatMul", ["c", "w"], ["y"]),
        ],
        {"x": (2, 64)},
        {"y": (4, 64)},
        {"w": weights(64, 64)},
    )
    result = quantized(proto, samples(1, x=(2, 64))[0], tmp_path)
    assert result.report.comparison is not None and result.report.comparison.sqnr > 20
