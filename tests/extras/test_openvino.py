"""Models of qtool mean the same in another runtime: OpenVINO computes what onnxruntime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest

import qtool
from tests.exact import honest_target
from tests.graphs import SAMPLE_MODELS

CNN = SAMPLE_MODELS / "cnn"
# SQNR in dB between the two runtimes: OpenVINO keeps int8 activations where onnxruntime rounds once more.
FLOOR = 30.0


@pytest.mark.parametrize(
    "options", [{}, {"symmetric": True}, {"mode": "weight-only"}, {"mode": "fp16"}], ids=str
)
def test_openvino_agrees_with_onnxruntime(options: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    mode = options.get("mode", "static")
    calib = CNN / "calib" if mode == "static" else None
    chosen = qtool.Options(**{"target": honest_target(), "calib": calib, "timing": "table", **options})
    result = qtool.quantize(CNN / "model.onnx", out, chosen)
    assert result.report.quantized_nodes or mode != "static"
    plain = onnxruntime.SessionOptions()  # not its int8 kernels, which saturate on a CPU without VNNI
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(out, plain)
    compiled = openvino.compile_model(out, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    signal = noise = 0.0
    for file in sorted((CNN / "eval").glob("*.npz"))[:8]:
        sample = dict(np.load(file))
        (expected,) = session.run(None, sample)
        got = compiled(sample)[0]
        signal += float((expected.astype(float) ** 2).sum())
        noise += float(((expected.astype(float) - got) ** 2).sum())
    assert 10 * np.log10(signal / max(noise, 1e-30)) >= FLOOR
