"""Models that other tools quantized: what is found must agree with what they set out to do, and with
what the runtime makes of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from qtool.graph.inspection.read import inspect_model
from tests.graphs import model, node, samples, weights

SHAPE = (1, 8, 6, 6)
PARAMETERS = 16 * 8 * 9 + 16 + 16 * 16 * 9 + 16 + 16 * 10 + 10


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """The quantizer warns through the root logger."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two convolutions and a Gemm, prepared by onnxruntime's own preprocessing, which litters its cwd."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    monkeypatch.chdir(tmp_path)
    made = model(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1", "b1"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", ["c1"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "w2", "b2"], ["y"]),
        ],
        {"x": SHAPE},
        {"y": (1, 10)},
        {
            "w0": weights(16, 8, 3, 3),
            "b0": weights(16, seed=1),
            "w1": weights(16, 16, 3, 3, seed=2),
            "b1": weights(16, seed=3),
            "w2": weights(16, 10, seed=4),
            "b2": weights(10, seed=5),
        },
    )
    onnx.save(made, tmp_path / "raw.onnx")
    quant_pre_process(tmp_path / "raw.onnx", tmp_path / "m.onnx", skip_symbolic_shape=True)
    return tmp_path / "m.onnx"


class Reader:
    def __init__(self) -> None:
        self.rest = iter(samples(4, x=SHAPE))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rest, None)


def optimized(path: Path) -> Counter[str]:
    """The ops that the runtime's optimizer ends with."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".opt.onnx"))
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(path.with_suffix(".opt.onnx")).graph.node)


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_static(source: Path, tmp_path: Path, form: str, per_channel: bool) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_static

    out = tmp_path / "q.onnx"
    quantize_static(source, out, Reader(), quant_format=QuantFormat[form], per_channel=per_channel)
    result = inspect_model(out)
    assert result.forms == (form.lower(),)
    assert result.parameters == PARAMETERS
    assert {k: w.elements for k, w in result.weights.items()} == {"int8": PARAMETERS - 42, "int32": 42}
    assert result.stored == 0
    convolutions = "Conv" if form == "QDQ" else "QLinearConv"
    assert result.ops[convolutions].computes == {"int8": 2}
    assert optimized(out)["QLinearConv"] == 2, "the runtime agrees"


def test_dynamic(source: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, tmp_path / "q.onnx")
    result = inspect_model(tmp_path / "q.onnx")
    assert result.forms == ("dynamic",)
    assert result.parameters == PARAMETERS
    assert result.weights["float32"].elements == 42, "the biases"
    assert result.computes["int8"] == 3


# In QDQ form it writes 4 bits only.
@pytest.mark.parametrize(("form", "bits"), [("QOperator", 4), ("QOperator", 8), ("QDQ", 4)])
def test_blocked_weights(tmp_path: Path, form: str, bits: int) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = model(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [2, 64]}, {"y": [2, 48]}, {"w": weights(64, 48)}, opset=21
    )
    quantizer = MatMulNBitsQuantizer(
        made, bits=bits, block_size=32, is_symmetric=True, quant_format=QuantFormat[form]
    )
    quantizer.process()
    result = inspect_model(quantizer.model.model)
    assert result.forms == ("weight-only",)
    assert result.parameters == 64 * 48
    assert {w.bits for w in result.weights.values()} == {bits}
    assert (result.quantized_share, result.stored) == (1, 1)
    assert result.computes["float32"] == 1


def test_float16(source: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    made = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    # It appends its Casts, and leaves sorting to the caller.
    made.graph.node.sort(key=lambda n: n.name != "graph_input_cast0")
    result = inspect_model(made)
    assert result.forms == ("float16",)
    assert result.half_share == 1
    assert result.computes["float16"] == 6
