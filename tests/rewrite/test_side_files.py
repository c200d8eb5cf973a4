"""Models whose weights lie in a side file: they are quantized as they are saved, to the same file as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

import qtool
from qtool.graph import save
from qtool.options import Options

MODES: dict[str, dict[str, Any]] = {
    "8 bits": {"mode": "weight-only"},
    "4 bits": {"mode": "weight-only", "bits": 4, "block": 32},
    "4 bits, packed": {"mode": "weight-only", "bits": 4, "block": 32, "prefer": "speed"},
    "8 bits, packed": {"mode": "weight-only", "bits": 8, "block": 32, "prefer": "speed"},
    "4 bits, generic": {"mode": "weight-only", "bits": 4, "block": 32, "target": "generic"},
    "dynamic": {"mode": "dynamic"},
    "dynamic, generic": {"mode": "dynamic", "target": "generic"},
    "fp16": {"mode": "fp16"},
}


def table_and_products(path: Path, *, side_file: bool) -> Path:
    """A Gather, a MatMul and a Gemm with transB, of weights [256, 64], [64, 128] and [96, 128]."""
    rng = np.random.default_rng(3)
    arrays = {
        "table": rng.normal(size=(256, 64)),
        "w": rng.normal(size=(64, 128)),
        "v": rng.normal(size=(96, 128)),
        "bias": rng.normal(size=96),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 96])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if side_file:
        external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, path)
    return path


def tensors(path: Path) -> dict[str, bytes]:
    graph = onnx.load(path).graph
    return {t.name: numpy_helper.to_array(t).tobytes() for t in graph.initializer}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_a_model_with_a_side_file_gets_the_tensors_of_one_without(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = table_and_products(tmp_path / "inline.onnx", side_file=False)
    external = table_and_products(tmp_path / "external.onnx", side_file=True)
    qtool.quantize(inline, tmp_path / "a.onnx", Options(**options))
    monkeypatch.setattr(save, "STREAMED_BYTES", 16)
    done = qtool.quantize(external, tmp_path / "b.onnx", Options(**options))
    assert tensors(tmp_path / "b.onnx") == tensors(tmp_path / "a.onnx")
    assert len(list(tmp_path.glob("b.onnx.*.data"))) == 1
    replayed = qtool.quantize(external, tmp_path / "c.onnx", Options(plan=done.plan))
    assert replayed.plan == done.plan and tensors(tmp_path / "c.onnx") == tensors(tmp_path / "b.onnx")


def test_the_plan_of_a_side_file_holds_no_scale_that_follows_from_its_weight(tmp_path: Path) -> None:
    model = table_and_products(tmp_path / "m.onnx", side_file=True)
    plan = qtool.quantize(model, tmp_path / "q.onnx", Options(mode="weight-only", bits=4)).plan
    assert plan.resolved and all(site.qparams is None for site in plan.sites)
