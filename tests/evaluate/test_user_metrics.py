"""The user's own metrics: called sample by sample, judged like any other, with errors that name the mistake."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.errors import DataError, UsageError
from qtool.options import Comparing
from tests.graphs import model, node, samples, weights, write_samples

CODE = """
def agree(fp32, quantized):
    return (fp32["y"].argmax(-1) == quantized["y"].argmax(-1)).mean()

def named(fp32, quantized, sample):
    assert sample.endswith(".npz"), sample
    return float(sample.removesuffix(".npz"))

def truth(fp32, quantized):
    return True

def optional(fp32, quantized, *rest, factor=2):
    return factor

def one(fp32): return 1
def four(a, b, c, d): return 1
def text(fp32, quantized): return "good"
def nothing(fp32, quantized): pass
def nan(fp32, quantized): return float("nan")
def broken(fp32, quantized): return fp32["z"]
number = 3
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": ("n", 4)}, {"y": ("n", 6)}, {"w": weights(4, 6)})
    onnx.save(proto, tmp_path / "m.onnx")
    write_samples(tmp_path / "eval", samples(5, x=(3, 4)))
    (tmp_path / "metrics.py").write_text(CODE)
    return tmp_path


def judged(place: Path, *functions: str, **options: object) -> qtool.Report:
    metrics = [f"{place / 'metrics.py'}:{name}" for name in functions]
    return qtool.compare(
        place / "m.onnx", place / "m.onnx", place / "eval", Comparing(metrics=metrics, **options)
    )  # type: ignore[arg-type]


def test_the_mean_over_samples_is_the_metric(place: Path) -> None:
    comparison = judged(place, "agree", "named", "truth", "optional").comparison
    assert comparison is not None
    assert comparison.user_metrics == {"agree": 1.0, "named": 2.0, "truth": 1.0, "optional": 2.0}


def test_gates_judge_it_like_other_metrics(place: Path) -> None:
    report = judged(place, "agree", "named", fail_if=["agree<1", "named<3", "named>1.5"])
    assert [g.failed for g in report.gates] == [False, True, True]


def test_nan_passes_no_gate(place: Path) -> None:
    report = judged(place, "nan", fail_if=["nan<1"])
    assert report.failed
    assert math.isnan(report.gates[0].value)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("one", UsageError, "takes 1 argument"),
        ("four", UsageError, "takes 4 arguments"),
        ("number", UsageError, "no function"),
        ("agre", UsageError, "agre"),
        ("text", DataError, "'good', not a number"),
        ("nothing", DataError, "None, not a number"),
        ("broken", DataError, r"metrics.py:\d+: KeyError"),
    ],
)
def test_a_mistake_is_named(place: Path, function: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        judged(place, function)


def test_a_missing_file_is_a_data_error(place: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        qtool.compare(
            place / "m.onnx",
            place / "m.onnx",
            place / "eval",
            Comparing(metrics=[str(place / "metric.py:agree")]),
        )


def test_two_of_one_name_are_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="two metrics named"):
        judged(place, "agree", "agree")


def test_quantize_judges_by_it_too(place: Path) -> None:
    calib = [{"x": np.random.default_rng(i).standard_normal((3, 4)).astype(np.float32)} for i in range(9)]
    options = qtool.Options(
        calib=calib, target="generic", metrics=[f"{place / 'metrics.py'}:truth"], fail_if=["truth>0.5"]
    )
    result = qtool.quantize(place / "m.onnx", place / "q.onnx", options)
    assert not result.ok
    assert not (place / "q.onnx").exists()
