"""Time first: accuracy is bought only for what a race has shown to pay, within the budget."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

import qtool
from qtool.evaluate.evaluator import ORIGINAL, PREPARED
from qtool.evaluate.latency import Race
from qtool.placement.timing import measure_timing
from qtool.report.figures import cost_line
from qtool.tables.efforts import EFFORTS
from qtool.tables.reasons import Code
from qtool.tables.targets import TABLE
from tests.exact import honest_target
from tests.graphs import node, samples, weights
from tests.plan.build import model
from tests.plan.flow import prepared
from tests.rewrite.zoo import CASES

CASE = CASES["residual"]
SAMPLES = [sample for _ in range(4) for sample in CASE.samples()]


def race_of(monkeypatch: pytest.MonkeyPatch, *int8_seconds: float) -> None:
    """Let every int8 candidate take this long, round after round, and FP32 one second."""

    def race(models: Collection[str], samples: object, threads: int, **more: object) -> Race:
        rounds = 9 * len(int8_seconds)
        times = {True: (1.0,) * rounds, False: int8_seconds * 9}
        return Race(1, {n: times[n in (ORIGINAL, PREPARED)] for n in models})

    monkeypatch.setattr("qtool.evaluate.evaluator.race_models", race)
    monkeypatch.setattr("qtool.commands.verdict.race_models", race)


def quantize(tmp_path: Path, **options: object) -> qtool.Result:
    chosen = qtool.Options(calib=SAMPLES, target=honest_target(), threads=1, gate="none", **options)  # type: ignore[arg-type]
    return qtool.quantize(CASE.build(), tmp_path / "q.onnx", chosen)


def test_where_int8_is_slower_nothing_else_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    race_of(monkeypatch, 2.0)
    report = quantize(tmp_path, recover="none").report
    assert report.quantized_nodes == 0
    assert any(skip.reason.code is Code.NOT_FASTER for skip in report.skips)
    assert {trial.name for trial in report.trials} >= {"all int8", "float"}
    assert all(trial.speedup < 1 for trial in report.trials if trial.name != "float")
    assert report.chosen == "float"
    assert report.selection is not None
    assert report.selection.cost.inferences < 10


def test_nothing_is_raced_where_no_node_can_be_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtool.evaluate.evaluator.race_models", None)
    proto = model([node("Exp", ["x"], ["e"]), node("Softmax", ["e"], ["y"])], {"x": [1, 8]}, ["y"])
    chosen = qtool.Options(calib=samples(8, x=(1, 8)), threads=1)
    report = qtool.quantize(proto, tmp_path / "q.onnx", chosen).report
    assert report.written
    assert report.quantized_nodes == 0


@pytest.mark.parametrize(("seconds", "pays"), [(0.98, False), (0.94, True)])
def test_a_gain_that_two_races_may_differ_by_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, pays: bool
) -> None:
    race_of(monkeypatch, seconds)
    report = quantize(tmp_path, recover="none").report
    assert bool(report.quantized_nodes) is pays
    assert any("two races differ by 3%" in skip.reason.detail for skip in report.skips) is not pays


@pytest.mark.parametrize(
    ("table", "regions", "kept"), [(2.0, 1.1, False), (1.1, 2.0, False), (1.5, 1.5, True)]
)
def test_where_timing_is_unreliable_both_predictions_must_show_a_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: float, regions: float, kept: bool
) -> None:
    race_of(monkeypatch, 0.5, 2.0)
    monkeypatch.setattr("qtool.placement.timing.predicted_speed", lambda candidate: table)
    monkeypatch.setattr("qtool.placement.timing.Timing.speed", lambda *args: regions)
    report = quantize(tmp_path, recover="none").report
    assert any("timing unreliable" in warning for warning in report.warnings)
    assert bool(report.quantized_nodes) is kept


def test_balanced_effort_keeps_its_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race_of(monkeypatch, 0.5)
    report = quantize(tmp_path).report
    assert report.quantized_nodes
    assert report.selection is not None
    cost = report.selection.cost
    assert cost.limit == EFFORTS["balanced"].inferences
    assert 0 < cost.inferences <= (cost.limit or 0)


@pytest.mark.parametrize(
    ("options", "warns"),
    [({}, False), ({"recover": "gptq,bias"}, True), ({"fail_if": ["speedup<99"], "keep_failed": True}, True)],
    ids=["default", "steps by name", "a gate fails"],
)
def test_steps_beyond_the_budget_are_a_warning_only_to_who_misses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], warns: bool
) -> None:
    """The search ends even where no plan within the budget holds the gate."""
    race_of(monkeypatch, 0.5)
    monkeypatch.setitem(EFFORTS, "balanced", replace(EFFORTS["balanced"], inferences=6))
    report = quantize(tmp_path, **options).report
    assert report.selection is not None
    assert "gptq" in report.selection.cost.left_out
    assert any("gptq" in warning for warning in report.warnings) is warns
    assert "gptq" in cost_line(report)


def test_a_time_budget_ends_the_search_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race_of(monkeypatch, 0.5)
    report = quantize(tmp_path, time_budget=1e-6).report
    assert report.written
    assert report.quantized_nodes
    assert not report.recovered
    assert report.selection is not None
    assert report.selection.cost.left_out
    assert any("--time-budget" in warning for warning in report.warnings)


@pytest.mark.parametrize(("conv", "int8"), [(2.0, set()), (0.5, {"c", "p"})])
def test_a_max_pool_is_in_int8_only_behind_int8(conv: float, int8: set[str]) -> None:
    """Behind a Q its kernel is a hundred times slower than the one that the trace has timed."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="c"),
        node("MaxPool", ["c"], ["p"], name="p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "v"], ["y"], name="d"),
    ]
    constants = {"w": weights(16, 16, 3, 3), "v": weights(16, 16, 3, 3)}
    proto = model(nodes, {"x": [1, 16, 16, 16]}, ["y"], constants, output_rank=4)
    timing = measure_timing(prepared(proto, samples(4, x=(1, 16, 16, 16)), timing=TABLE))
    assert timing is not None
    times = {"c": (1.0, conv), "p": (1.0, 0.5), "d": (1.0, 0.5)}
    assert replace(timing, times=times).network.minimize(0.0) == int8 | {"d"}
