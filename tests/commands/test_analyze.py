"""Analyze: the scale that was spoiled comes first, errors agree with models that are built, advice with its result."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime import quantization

import qtool
from qtool.report.analysis import ANALYSIS, Analysis, to_json
from tests.graphs import model, node, samples, weights
from tests.tiers import sample

SHAPE = (1, 8, 6, 6)
CALIB = samples(16, x=SHAPE)
DATA = samples(8, seed=2, x=SHAPE)
TARGET = {"target": "cpu-avx2"}
_EIGHT = 8.0
OPTIONS = qtool.Analyzing(threads=1, advise=False)


@cache
def net() -> onnx.ModelProto:
    """Three layers with biases, one of them without a Relu, a residual Add, and a product at the end."""
    constants = {f"b{i}": weights(8, seed=10 + i) for i in range(3)}
    constants |= {f"w{i}": weights(8, 8, 3, 3, seed=i) for i in range(3)}
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], name="body/one/conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], name="body/one/relu"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], name="body/two/conv", pads=[1, 1, 1, 1]),
        node("Add", ["c1", "r0"], ["a1"], name="body/two/add"),
        node("Conv", ["a1", "w2", "b2"], ["c2"], name="body/three/conv", pads=[1, 1, 1, 1]),
        node("Flatten", ["c2"], ["f"], name="head/flatten"),
        node("MatMul", ["f", "wd"], ["y"], name="head/dense"),
    ]
    return model(nodes, {"x": SHAPE}, ["y"], {**constants, "wd": weights(288, 16, seed=5)})


class _Reader(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self._rest = iter(CALIB)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._rest, None)


def by_qtool(**options: object) -> Callable[[Path], onnx.ModelProto]:
    def make(folder: Path) -> onnx.ModelProto:
        settled = {
            "calib": CALIB,
            "effort": "fast",
            "gate": "none",
            "timing": "table",
            "threads": 1,
            **TARGET,
            **options,
        }
        qtool.quantize(net(), folder / "q.onnx", qtool.Options(**settled))
        return onnx.load(folder / "q.onnx")

    return make


def by_rival(form: str) -> Callable[[Path], onnx.ModelProto]:
    def make(folder: Path) -> onnx.ModelProto:
        onnx.save(net(), folder / "f.onnx")
        names = folder / "f.onnx", folder / "q.onnx"
        if form == "dynamic":
            quantization.quantize_dynamic(*names, weight_type=quantization.QuantType.QInt8, reduce_range=True)
        else:
            quant_format = quantization.QuantFormat[form]
            quantization.quantize_static(
                *names,
                _Reader(),
                quant_format=quant_format,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=True,
            )
        return onnx.load(folder / "q.onnx")

    return make


WAYS: dict[str, Callable[[Path], onnx.ModelProto]] = {
    "qtool qdq": by_qtool(),
    "qtool qoperator": by_qtool(format="qoperator"),
    "rival qoperator": by_rival("QOperator"),
    "rival qdq": by_rival("QDQ"),
    "qtool dynamic": by_qtool(mode="dynamic"),
    "qtool weight-only": by_qtool(mode="weight-only"),
    "rival dynamic": by_rival("dynamic"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], onnx.ModelProto]:
    return cache(lambda way: WAYS[way](tmp_path_factory.mktemp("made")))


def spoiled(proto: onnx.ModelProto, scale: str) -> onnx.ModelProto:
    """The model with one scale 8 times as large."""
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    for each in other.graph.initializer:
        if each.name == scale:
            array = (numpy_helper.to_array(each) * _EIGHT).astype(np.float32)
            each.CopyFrom(numpy_helper.from_array(array, scale))
    return other


def scales_of(analysis: Analysis) -> dict[str, str]:
    """Kind -> the scale of its quietest tensor: the hardest to name."""
    return {t.kind: t.scale for t in analysis.tensors if t.scale}


@pytest.mark.parametrize("way", sample(list(WAYS), 2))
def test_the_spoiled_scale_comes_first(way: str, made: Callable[[str], onnx.ModelProto]) -> None:
    proto = made(way)
    sound = qtool.analyze(net(), proto, DATA, OPTIONS)
    assert not sound.problems
    assert not sound.warnings
    assert abs(sound.sqnr - sound.outputs[0].simulated) < 0.5
    for scale in sample(list(scales_of(sound).values()), 2):
        first = qtool.analyze(net(), spoiled(proto, scale), DATA, OPTIONS)
        assert first.tensors[0].scale == scale
        assert first.regions[0].problem


@pytest.fixture(scope="module")
def default() -> Analysis:
    """The model that qtool would make."""
    return qtool.analyze(net(), None, DATA, qtool.Analyzing(calib=CALIB, threads=1, advise=False, **TARGET))


def test_regions_agree_with_models_that_are_built(default: Analysis) -> None:
    assert len(default.regions) == 6
    for region in default.regions[:3]:
        include = {"exclude": ["*"], "include": list(region.nodes)}
        assert built(**include) == pytest.approx(region.sqnr, abs=1)


def built(**options: object) -> float:
    """SQNR of a model that qtool makes."""
    with tempfile.TemporaryDirectory() as folder:
        proto = by_qtool(data=DATA, **options)(Path(folder))
    return qtool.compare(net(), proto, DATA, qtool.Comparing(gate="none", threads=1)).comparison.sqnr


def test_regions_that_share_a_weight_have_an_error_each() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["loud"], name="loud"),
        node("Mul", ["x", "hundredth"], ["less"]),
        node("MatMul", ["less", "w"], ["quiet"], name="quiet"),
        node("Add", ["loud", "quiet"], ["y"]),
    ]
    shared = model(nodes, {"x": (4, 64)}, ["y"], {"w": weights(64, 64), "hundredth": np.float32(0.01)})
    analysis = qtool.analyze(shared, None, samples(8, x=(4, 64)), replace(OPTIONS, mode="weight-only"))
    first, second = analysis.regions
    assert (first.name, second.name) == ("loud", "quiet")
    assert second.sqnr - first.sqnr == pytest.approx(40, abs=1)


# One sample of these widens every range.
WIDENED = [{"x": CALIB[0]["x"] * 30}, *CALIB]


def test_advice_says_what_its_command_gains() -> None:
    analysis = qtool.analyze(
        net(), None, DATA, qtool.Analyzing(calib=WIDENED, threads=1, try_best=True, **TARGET)
    )
    best = analysis.advice[0]
    assert best.gain > 1
    for advice in analysis.advice[:3]:
        assert advice.measured == pytest.approx(advice.sqnr, abs=1)
    words = shlex.split(best.options)
    options: dict[str, list[str]] = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        options.setdefault(flag.removeprefix("--"), []).append(value)
    options = {k: v if k == "exclude" else v[0] for k, v in options.items()}
    assert built(calib=WIDENED, **options) - analysis.sqnr == pytest.approx(best.gain, abs=2)


def test_what_one_sample_alone_gains_is_no_advice() -> None:
    """Only in the last sample is the gate open, and behind it nearly all of the error is made."""
    nodes = [
        *(node("Conv", ["x" if i == 0 else f"c{i - 1}", "w"], [f"c{i}"], name=f"quiet{i}") for i in range(3)),
        node("Mul", ["x", "gate"], ["g"]),
        node("Conv", ["g", "v"], ["loud"], name="loud"),
        node("Add", ["c2", "loud"], ["y"]),
    ]
    shape = (1, 8, 4, 4)
    constants = {"w": weights(8, 8, 1, 1), "v": weights(8, 8, 1, 1, seed=1) * 30}
    gated = model(nodes, {"x": shape, "gate": (1, 1, 1, 1)}, ["y"], constants)
    data = samples(8, x=shape)
    for each in data:
        each["gate"] = np.full((1, 1, 1, 1), each is data[-1], np.float32)
    analysis = qtool.analyze(gated, None, data, qtool.Analyzing(calib=data, threads=1, **TARGET))
    assert max(analysis.regions, key=lambda r: r.share).name == "loud"
    assert not any("loud" in advice.options for advice in analysis.advice)


def test_a_range_that_one_sample_widens_is_a_fault() -> None:
    options = qtool.Analyzing(calib=WIDENED, threads=1, advise=False, **TARGET)
    analysis = qtool.analyze(net(), None, DATA, options)
    assert "times as wide as the values" in analysis.problems[0].problem


def test_a_named_runtime_runs_the_model_that_qtool_would_make(default: Analysis) -> None:
    analysis = qtool.analyze(
        net(), None, DATA, replace(OPTIONS, calib=CALIB, runtime="onnxruntime", target="cpu-avx2")
    )
    assert analysis.runtime == "onnxruntime"
    assert analysis.outputs[0].sqnr == analysis.sqnr == pytest.approx(default.sqnr, abs=0.5)
    assert default.runtime == ""
    assert np.isnan(default.outputs[0].sqnr)


def test_one_sample_with_all_of_the_error_is_named(default: Analysis) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(net())
    proto.graph.node.append(node("Neg", ["x"], ["exact"]))  # an output without error has no share
    proto.graph.output.append(onnx.helper.make_tensor_value_info("exact", onnx.TensorProto.FLOAT, SHAPE))
    data = [*DATA[:5], {"x": DATA[5]["x"] * 50}, *DATA[6:]]
    (warning,) = qtool.analyze(proto, None, data, replace(OPTIONS, calib=CALIB, **TARGET)).warnings
    assert "sample 6 of" in warning
    assert not default.warnings


def test_the_cost_keeps_its_limit(default: Analysis) -> None:
    assert default.cost.limit == 20 + len(default.regions)
    assert default.cost.runs <= default.cost.limit


def test_shares_and_blocks_add_up(default: Analysis) -> None:
    assert sum(t.share for t in default.tensors) == pytest.approx(1)
    assert sum(r.share for r in default.regions) == pytest.approx(1)
    assert {b.name for b in default.blocks} == {"body", "head"}
    assert sum(b.share for b in default.blocks) == pytest.approx(1)


def test_the_tensors_of_a_run_have_the_errors_that_analyze_measures(tmp_path: Path) -> None:
    options = qtool.Options(
        calib=CALIB, data=CALIB, method="percentile", effort="fast", timing="table", gate="none", threads=1, **TARGET
    )  # fmt: skip
    tensors = qtool.quantize(net(), tmp_path / "q.onnx", options).report.tensors
    measured = {t.name: t for t in qtool.analyze(net(), tmp_path / "q.onnx", CALIB, OPTIONS).tensors}
    assert {t.kind for t in tensors} == {"activation", "weight"}
    for tensor in tensors:
        other = measured[tensor.name]
        assert tensor.own_sqnr == pytest.approx(other.own_sqnr, abs=2), "of other samples"
        assert (tensor.grid_low, tensor.grid_high) == pytest.approx((other.grid_low, other.grid_high))
        assert sum(tensor.before) == sum(tensor.after) > 0


def test_rounding_alone_is_a_third_of_a_step(default: Analysis) -> None:
    wide = [t for t in default.tensors if t.kind == "activation" and t.low < 0 and not t.clipped]
    assert wide
    assert all(t.rmse_steps == pytest.approx(12**-0.5, abs=0.02) for t in wide)


def test_it_is_read_back_from_json(default: Analysis) -> None:
    text = to_json(default)
    assert to_json(ANALYSIS.from_json(text, "a.json")) == text
    assert '"regions"' in text


def test_2_a_model_of_another_one(made: Callable[[str], onnx.ModelProto]) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(net())
    other.producer_name = "another"
    with pytest.raises(qtool.UsageError, match="made from another model"):
        qtool.analyze(other, made("qtool qdq"), DATA, OPTIONS)


def test_3_swapped_models(made: Callable[[str], onnx.ModelProto]) -> None:
    with pytest.raises(qtool.ModelError) as caught:
        qtool.analyze(made("qtool qdq"), net(), DATA, OPTIONS)
    assert "swapped" in caught.value.hint


def test_3_a_float_model_has_nothing_to_analyze() -> None:
    with pytest.raises(qtool.ModelError, match="no quantized tensor"):
        qtool.analyze(net(), net(), DATA, OPTIONS)
