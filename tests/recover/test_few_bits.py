"""--mode static with weights of few bits: packed in the file, integer kernels, scales that GPTQ fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qtool.commands.quantize import quantize as quantized_file
from qtool.errors import EnvironmentFailure, UsageError
from qtool.graph.save import to_bytes
from qtool.numerics.quantize import quantize
from qtool.numerics.weights import weight_qparams
from qtool.options import Options
from qtool.plan.model import WEIGHTS, Kind
from qtool.plan.scheme import Choices, make_scheme
from qtool.plan.validate import validate_plan
from qtool.recover.gptq import round_weights
from qtool.recover.run import requested_steps
from qtool.rewrite.write import rewrite
from qtool.tables.qtypes import BINARY, TERNARY, PerChannel, QType, TensorSpec
from tests.graphs import rng
from tests.plan.flow import candidate
from tests.recover.oracle import memory
from tests.recover.test_gptq import convolutions, images
from tests.rewrite.flow import ran, run, sqnr


@pytest.mark.parametrize("weights", ["int4", "int2"])
def test_few_bits_run_in_integer_kernels_and_gptq_fits_their_scales(weights: str) -> None:
    samples = images(8)
    done = candidate(convolutions(), samples, include=["*"], mode="static", weights=weights)
    plan = round_weights(done.model.view, done.plan, memory(samples), threads=1)
    assert not validate_plan(plan, done.model.view)
    assert done.with_plan(plan).changed().plan == plan  # the scales of biases follow
    nearest, fitted = (to_bytes(rewrite(done.model.model, p)) for p in (done.plan, plan))
    packed = onnx.TensorProto.DataType.Value(weights.upper())
    stored = [i for i in onnx.load_from_string(fitted).graph.initializer if i.data_type == packed]
    assert len(stored) == len([s for s in plan.sites if s.kind is Kind.WEIGHT])
    assert "QLinearConv" in ran(fitted) and "Conv" not in ran(fitted)
    expected = run(convolutions(), samples)
    assert sqnr(expected, run(fitted, samples)) > sqnr(expected, run(nearest, samples)) + 1


@pytest.mark.parametrize(
    ("levels", "form"),
    [("binary", {"mode": "static", "weights": "int2"}), ("ternary", {"mode": "weight-only", "bits": 2})],
)
def test_weights_of_two_and_three_values_are_stored_in_two_bits(levels: str, form: dict[str, Any]) -> None:
    samples = images(8)
    done = candidate(convolutions(), samples, include=["*"], levels=levels, **form)
    plan = round_weights(done.model.view, done.plan, memory(samples), threads=1)
    assert not validate_plan(plan, done.model.view)
    file = onnx.load_from_string(to_bytes(rewrite(done.model.model, plan)))
    stored = [i for i in file.graph.initializer if i.data_type == onnx.TensorProto.INT2]
    assert stored
    allowed = {-1, 0, 1} if levels == "ternary" else {-1, 1}
    assert all(set(np.unique(onnx.numpy_helper.to_array(i).astype(int))) <= allowed for i in stored)
    assert sqnr(run(convolutions(), samples), run(file, samples)) > 0


@pytest.mark.parametrize(
    ("choices", "fewest"),
    [
        ({"levels": "ternary", "target_bits": 4}, "ternary"),
        ({"mode": "weight-only", "levels": "ternary", "target_bits": 5}, "ternary"),
    ],
)
def test_few_bits_are_mixed_with_more_where_a_byte_removes_most_noise(
    tmp_path: Path, choices: dict[str, Any], fewest: str
) -> None:
    options = Options(calib=images(8), include=["*"], timing="table", recover="none", gate="none", threads=1)
    fewer = {name: value for name, value in choices.items() if name != "target_bits"}
    few = quantized_file(convolutions(), tmp_path / "few.onnx", replace(options, **fewer))
    mixed = quantized_file(convolutions(), tmp_path / "mixed.onnx", replace(options, **choices))
    types = {s.spec.qtype.name for s in mixed.plan.sites if s.kind in WEIGHTS}
    assert fewest in types and len(types) > 1
    assert few.report.comparison is not None and mixed.report.comparison is not None
    assert mixed.report.comparison.sqnr > few.report.comparison.sqnr + 1
    quantized_file(convolutions(), tmp_path / "again.onnx", Options(plan=mixed.plan))
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "mixed.onnx").read_bytes()


def test_a_product_of_few_bits_may_be_set_to_eight() -> None:
    done = candidate(convolutions(), images(8), sets=["op:Gemm=int8"], mode="static", weights="int4")
    types = {s.value: s.spec.qtype.bits for s in done.plan.sites if s.kind is Kind.WEIGHT}
    assert sorted(types.values()) == [4] * (len(types) - 1) + [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(mode="dynamic", target_bits=5), "static and weight-only"),
        (Options(weights="int8", target_bits=5), "has one size"),
    ],
)
def test_sizes_to_aim_at_need_weights_of_few_bits(options: Options, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        quantized_file(convolutions(), tmp_path / "q.onnx", options)


def test_levels_are_for_two_bits() -> None:
    with pytest.raises(UsageError, match="2 bits"):
        make_scheme("weight-only", "cpu", Choices(bits=4, levels="ternary"))


def test_fine_tuning_without_torch_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtool.recover.finetune.step.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailure, match="torch") as caught:
        requested_steps(Options(recover="auto,finetune"))
    assert caught.value.hint == "pip install 'torch>=2.5'"
    assert "finetune" not in requested_steps(Options(effort="best"))
    with pytest.raises(UsageError, match="technique 'finetun'"):
        requested_steps(Options(recover="finetun"))


@pytest.mark.parametrize(
    ("qtype", "scale"), [(TERNARY, 1.22), (BINARY, 0.798)], ids=lambda x: getattr(x, "name", "")
)
def test_the_scales_of_two_and_three_values_are_the_best_for_normal_weights(
    qtype: QType, scale: float
) -> None:
    w = rng(1).normal(size=(2, 20_000)).astype(np.float32)
    spec = TensorSpec(qtype, PerChannel(0), symmetric=True)
    params = weight_qparams(w, spec)
    np.testing.assert_allclose(params.scale, scale, rtol=0.06)  # the mean size beyond 0.6, and of all
    q = quantize(w, params, qtype, spec.granularity)
    assert set(np.unique(q)) == ({-1, 1} if qtype is BINARY else {-1, 0, 1})
