"""A source at opset 28, which onnx 1.23 writes by default: quantized in every mode, loaded and run.

onnxruntime 1.32 loads opset 28, but has no QuantizeLinear and DequantizeLinear of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from qtool.runtime.library import has_op
from qtool.runtime.session import Session
from tests.graphs import model, node, samples, weights

OPSET = 28
pytestmark = pytest.mark.skipif(
    onnx.defs.onnx_opset_version() < OPSET or not has_op("Relu", OPSET), reason="older than opset 28"
)

WAYS: dict[str, dict[str, Any]] = {
    "static": {"mode": "static"},
    "static-io": {"mode": "static", "io": "int8"},
    "static-qoperator": {"mode": "static", "format": "qoperator"},
    "static-16-bits": {"mode": "static", "acts": "int16"},
    "dynamic": {"mode": "dynamic"},
    "weight-only-8": {"mode": "weight-only", "bits": 8},
    "weight-only-4": {"mode": "weight-only", "bits": 4},
    "weight-only-4-speed": {"mode": "weight-only", "bits": 4, "prefer": "speed"},
    "fp16": {"mode": "fp16"},
}


def net(*last: onnx.NodeProto) -> onnx.ModelProto:
    """A convolution and a product, and then the nodes that make y of z."""
    return model(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("MatMul", ["f", "m"], ["z"]),
            *(last or [node("Relu", ["z"], ["y"])]),
        ],
        {"x": (1, 8, 12, 12)},
        ["y"],
        {"w": weights(64, 8, 3, 3), "m": weights(64, 64)},
        opset=OPSET,
        ir_version=13,
    )


def quantized(proto: onnx.ModelProto, out: Path, **options: Any) -> qtool.Result:
    calib = samples(12, x=(1, 8, 12, 12))
    wanted = {"include": ["*"], "timing": "table", "force": True, **options}
    return qtool.quantize(proto, out, qtool.Options(calib=calib, **wanted))


@pytest.mark.parametrize("way", WAYS)
def test_a_source_at_opset_28_is_quantized_and_runs(way: str, tmp_path: Path) -> None:
    proto, out = net(), tmp_path / "q.onnx"
    result = quantized(proto, out, **WAYS[way])
    assert result.ok
    made = onnx.load(out)
    ops = {n.op_type for n in made.graph.node}
    if way != "fp16":
        assert result.plan.forms or result.plan.sites
    version = next(o.version for o in made.opset_import if not o.domain)
    assert all(has_op(op, version) for op in ops & {"QuantizeLinear", "DequantizeLinear", "Cast"})
    for sample in samples(2, x=(1, 8, 12, 12)):
        if way == "static-io":
            continue  # its inputs are integers; that it was judged says that it runs
        (output,) = Session(out).run(sample)
        (wanted,) = Session(proto.SerializeToString()).run(sample)
        assert np.abs(output - wanted).max() <= 0.35 * np.abs(wanted).max()


def test_an_op_that_changed_in_types_only_is_lowered_too(tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    assert quantized(net(node("Celu", ["z"], ["y"])), out, mode="static").ok
    assert next(o.version for o in onnx.load(out).opset_import if not o.domain) < OPSET
    Session(out).run(samples(1, x=(1, 8, 12, 12))[0])


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ([node("Mod", ["z", "z"], ["y"])], "Mod without fmod takes floats since opset 28"),
        ([node("SwiGLU", ["z", "z"], ["y"])], "SwiGLU came with opset 28"),
    ],
    ids=["changed", "new"],
)
def test_ops_without_a_form_in_a_lower_opset_are_refused(
    last: list[onnx.NodeProto], words: str, tmp_path: Path
) -> None:
    with pytest.raises(qtool.ModelError) as caught:
        quantized(net(*last), tmp_path / "q.onnx", mode="static")
    assert words in caught.value.message
    assert "onnxruntime has no QuantizeLinear of opset 28" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 3
