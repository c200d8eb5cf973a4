"""Of onnx's node cases, how many each mode changes with the tables as they are, and how near FP32 those stay.

Only with `make sweep`: a case more or less says nothing, all of them say whether a form was lost.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from qtool.errors import QtoolError
from qtool.runtime.session import Session
from tests.sweep.cases import Case, case, names
from tests.sweep.noise import Outputs
from tests.sweep.test_backend_suite import fp32_outputs
from tests.sweep.ways import avoid_saturation, settle_speed

LEAST = {"dynamic": 23, "static": 366, "fp16": 10}
# Relative errors beyond this are explained by 8 bits alone.
LARGE = 0.2
EXPLAINED = {
    "test_attention_4d_softcap_neginf_mask_poison_expanded": "V is below 1, but for a row of 1000 that a mask hides",
    "test_softmax_large_number": "rows of 0..3 and of 10000..10003 share a grid whose step is 39",
}
QUANTIZED = (
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger "
    "DynamicQuantizeMatMul MatMulIntegerToFloat DynamicQuantizeLSTM QLinearConv QLinearMatMul"
).split(" ")


@cache
def node_cases() -> dict[str, tuple[Case, Outputs]]:
    """Every node case as it is, weights fed, with its outputs in FP32; without what can't be judged."""
    cases = {}
    for name in names():
        if "." in name or "-" in name or name.startswith("light"):
            continue
        one = case(name)
        fp32 = fp32_outputs(one)
        if not isinstance(fp32, str):
            cases[name] = one, fp32
    return cases


def holds_more(before: onnx.ModelProto, after: onnx.ModelProto, mode: str) -> bool:
    """Whether a model holds quantized ops, or float16 ones, where it had fewer."""
    if mode == "fp16":
        return fp16_count(after) > fp16_count(before)
    counts = [Counter(n.op_type for n in m.graph.node) for m in (before, after)]
    return any(counts[1][op] > counts[0][op] for op in QUANTIZED)


def fp16_count(model: onnx.ModelProto) -> int:
    """Weights in float16 and casts to it."""
    half = onnx.TensorProto.FLOAT16
    casts = [n for n in model.graph.node if n.op_type == "Cast"]
    return sum(t.data_type == half for t in model.graph.initializer) + sum(
        a.name == "to" and a.i == half for n in casts for a in n.attribute
    )


def relative_error(fp32: Outputs, got: Outputs) -> float:
    """Of the worst output of floats: the length of the difference by that of FP32, where both are finite."""
    worst = 0.0
    for a, b in zip(fp32, got, strict=True):
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f" or a.shape != np.shape(b):
            continue
        x, y = a.astype(np.float64), np.asarray(b, np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        length = float(np.linalg.norm(x[finite]))
        if length:
            worst = max(worst, float(np.linalg.norm(x[finite] - y[finite])) / length)
    return worst


@pytest.mark.nightly
@pytest.mark.parametrize("mode", LEAST)
def test_most_cases_are_quantized_and_few_lose_much(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    settle_speed(monkeypatch)
    avoid_saturation(monkeypatch)
    changed, far = [], {}
    for name, (one, fp32) in node_cases().items():
        calib: Any = [one.sample] if mode != "dynamic" and one.sample else None
        options = qtool.Options(mode=mode, target="generic", calib=calib, threads=1)
        path = tmp_path / f"{name}.onnx"
        try:
            qtool.quantize(one.model, path, options)
        except QtoolError:
            continue  # test_backend_suite.py says which refusals are right
        if holds_more(one.model, onnx.load(path), mode):
            changed.append(name)
            error = relative_error(fp32, Session(path, threads=1).run(one.inputs))
            far |= {name: round(error, 3)} if error > LARGE else {}
    record_property("changed", len(changed))
    record_property("far", far)
    print(f"{mode}: {len(changed)} of {len(node_cases())} changed; relative error above {LARGE}: {far}")
    assert len(changed) >= LEAST[mode]
    assert far.keys() <= EXPLAINED.keys(), far
