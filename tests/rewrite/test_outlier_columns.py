"""x W = x' W' + x[C] W[C]: exact in float, and the outliers cost the other columns nothing."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from qtool.commands.quantize import quantize
from qtool.graph.save import to_bytes
from qtool.graph.view import View
from qtool.options import Options
from qtool.plan.draft import draft
from qtool.plan.model import OutlierColumns
from qtool.plan.outlier_columns import can_split_columns
from qtool.plan.rules import rule_based
from qtool.rewrite.outlier_columns import split_outlier_columns
from qtool.runtime.session import Session
from tests import outliers
from tests.plan.flow import ready, rules_plan
from tests.tiers import in_turn

COLUMNS = {"h": OutlierColumns(outliers.LOUD, -1.0, 1.0)}


@pytest.mark.parametrize(
    ("mode", "bias", "axes", "optimize"),
    in_turn(product(["static", "dynamic"], [True, False]), [2, 3], [True, False]),
)
def test_it_is_exact_in_float(mode: str, bias: bool, axes: int, optimize: bool) -> None:
    done = ready(outliers.proto(bias, axes), mode=mode, include=["op:MatMul"])
    plan = draft(done.task, rule_based(done.task), outlier_columns=COLUMNS)
    clone = done.model.clone()
    split_outlier_columns(clone, plan)
    assert plan.outlier_columns
    assert sum(n.op_type == "MatMul" for n in clone.graph) == 4
    ours, theirs = (Session(to_bytes(m), threads=1, optimize=optimize) for m in (clone, done.model))
    for sample in outliers.samples(2, axes):
        for a, b in zip(theirs.run(sample), ours.run(sample), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize(("mode", "bias", "axes"), in_turn(["static", "dynamic"], [True, False], [2, 3]))
def test_it_recovers_the_loss_by_outliers(mode: str, bias: bool, axes: int, tmp_path: Path) -> None:
    results = {}
    for recover in ("none", "columns"):
        options = Options(
            mode=mode,
            calib=outliers.samples(24, axes),
            include=("op:MatMul",),
            recover=recover,
            timing="table",
            threads=1,
            min_sqnr=30,  # what is aimed at: noise that is far below does not matter
            keep_failed=True,
        )
        result = quantize(outliers.proto(bias, axes), tmp_path / f"{recover}.onnx", options)
        assert result.report.comparison is not None
        results[recover] = result.report.comparison.sqnr, result.plan
    plan = results["columns"][1]
    assert set(plan.outlier_columns["h"].columns) >= set(outliers.LOUD)
    assert not results["none"][1].outlier_columns
    assert results["columns"][0] > results["none"][0] + 10
    replay = tmp_path / "again.onnx"
    quantize(outliers.proto(bias, axes), replay, Options(plan=plan, threads=1))
    assert replay.read_bytes() == (tmp_path / "columns.onnx").read_bytes()
    with_kernels = onnxruntime.InferenceSession(replay.read_bytes(), providers=["CPUExecutionProvider"])
    assert with_kernels.run(None, outliers.samples(1, axes)[0])


def test_only_products_with_a_matrix_of_their_own_can() -> None:
    done = ready(outliers.proto(), include=["op:MatMul"])
    able = {s.value for s in rules_plan(done).sites if can_split_columns(View(done.model), s)}
    assert able == {"h"}
