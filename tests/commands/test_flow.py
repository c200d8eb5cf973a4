"""The flow from samples to a verdict: what chooses, what judges, and what the file depends on.

Times are looked up, so that the clock decides nothing. The target is `cpu-avx2`, whose weights of 7 bits give
the same results on CPUs with and without VNNI.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import ItemsView, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

import qtool
from qtool.commands.calibrate import Calibrating, calibrate_model
from qtool.errors import UsageError
from qtool.plan import serial
from qtool.plan.model import WEIGHTS, Skip
from qtool.tables.reasons import Code, Reason
from tests.cli.program import run
from tests.graphs import samples, write_samples
from tests.rewrite.zoo import CASES

SHAPE = (1, 16, 8, 8)
CALIB = samples(16, x=SHAPE)
OTHER = samples(8, seed=2, x=SHAPE)
FAR = [{"x": sample["x"] * 100} for sample in OTHER]  # saturates every range that CALIB sets


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return CASES["residual"].build()


def options(**changes: Any) -> qtool.Options:
    settled = {"target": "cpu-avx2", "timing": "table", "threads": 1, "calib": CALIB, "recover": "gptq"}
    return qtool.Options(**{**settled, **changes})


def metadata(path: Path) -> dict[str, str]:
    return {p.key: p.value for p in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def usual(net: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> tuple[qtool.Result, Path]:
    """A run on all defaults but the clock."""
    output = tmp_path_factory.mktemp("usual") / "q.onnx"
    result = qtool.quantize(net, output, options(data=OTHER))
    assert result.plan.forms
    return result, output


@pytest.mark.parametrize("min_sqnr", [None, 25.0])
def test_no_choice_depends_on_the_judge_set(
    net: onnx.ModelProto, min_sqnr: float | None, tmp_path: Path
) -> None:
    """The file is the same whatever the judge set is, also where the gates fail on it."""
    made = []
    for name, data in {"near": OTHER, "far": FAR}.items():
        output = tmp_path / f"{name}.onnx"
        qtool.quantize(net, output, options(data=data, min_sqnr=min_sqnr, keep_failed=True))
        made.append(output.read_bytes())
    assert made[0] == made[1]


def test_a_plan_whose_model_is_invalid_is_refused_as_a_plan(net: onnx.ModelProto, tmp_path: Path) -> None:
    """Edited by hand: Convs take float16 data and float32 weights."""
    plan = qtool.quantize(net, tmp_path / "q.onnx", qtool.Options(mode="fp16", target="generic")).plan
    nodes = {name: replace(ports, inputs=(0,)) for name, ports in plan.fp16.nodes.items()}
    plan = replace(plan, fp16=replace(plan.fp16, nodes=nodes, copied=frozenset()))
    with pytest.raises(UsageError, match="the plan does not fit the model: "):
        qtool.quantize(net, tmp_path / "r.onnx", qtool.Options(plan=plan))
    assert [f.name for f in tmp_path.iterdir()] == ["q.onnx"]


def test_a_plan_without_the_weight_of_a_node_is_refused_as_a_plan(
    net: onnx.ModelProto, tmp_path: Path
) -> None:
    plan = qtool.quantize(net, tmp_path / "q.onnx", qtool.Options(mode="dynamic", include=["*"])).plan
    plan = replace(plan, sites=tuple(replace(s, uses=()) if s.kind in WEIGHTS else s for s in plan.sites))
    with pytest.raises(UsageError, match="the plan does not fit the model: "):
        qtool.quantize(net, tmp_path / "r.onnx", qtool.Options(plan=plan))


def test_a_gate_that_fails_on_the_judge_set_leaves_no_file_and_both_numbers(
    net: onnx.ModelProto, tmp_path: Path
) -> None:
    result = qtool.quantize(net, tmp_path / "q.onnx", options(data=FAR, min_sqnr=25.0))
    report = result.report
    assert not result.ok
    assert list(tmp_path.iterdir()) == []
    assert [g.gate.text for g in report.failed] == ["sqnr<25"]
    assert report.selection is not None
    assert report.comparison is not None
    assert report.selection.interval[0] >= 25 > report.comparison.sqnr
    assert report.selection.judge_independent
    assert report.comparison.samples == len(FAR)


def test_the_program_exits_with_1_when_the_judge_set_fails_a_gate(
    net: onnx.ModelProto, tmp_path: Path
) -> None:
    onnx.save(net, tmp_path / "m.onnx")
    calib, far = write_samples(tmp_path / "calib", CALIB), write_samples(tmp_path / "far", FAR)
    done = run(
        "quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--calib", calib, "--data", far, "--json",
        "--min-sqnr", 25, "--target", "cpu-avx2",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert not (tmp_path / "q.onnx").exists()
    report = json.loads(done.stdout)
    assert report["selection"]["sqnr"] > 25 > report["comparison"]["sqnr"]


def test_the_same_call_gives_the_same_bytes_in_the_library_and_in_the_program(
    net: onnx.ModelProto, tmp_path: Path
) -> None:
    onnx.save(net, tmp_path / "m.onnx")
    calib = write_samples(tmp_path / "calib", CALIB)
    for name in ("first.onnx", "second.onnx"):
        qtool.quantize(tmp_path / "m.onnx", tmp_path / name, options(calib=calib, recover="auto"))
    done = run(
        "quantize", tmp_path / "m.onnx", "-o", tmp_path / "program.onnx", "--calib", calib, "--target",
        "cpu-avx2", "--timing", "table", "--effort", "balanced", "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len({(tmp_path / n).read_bytes() for n in ("first.onnx", "second.onnx", "program.onnx")}) == 1


@pytest.fixture(scope="module")
def ranges(net: onnx.ModelProto) -> Any:
    return calibrate_model(net, CALIB, options=Calibrating(threads=1))


def test_without_samples_no_recovery_is_tried_and_a_warning_says_so(
    net: onnx.ModelProto, ranges: Any, tmp_path: Path
) -> None:
    result = qtool.quantize(net, tmp_path / "q.onnx", options(calib=None, ranges=ranges, data=OTHER))
    report = result.report
    assert result.ok
    assert result.plan.forms
    assert (report.selection, report.recovered, report.trials) == (None, (), ())
    assert any("nothing was chosen by measurement" in warning for warning in report.warnings)
    assert report.comparison is not None
    assert report.comparison.samples == len(OTHER)


def test_with_ranges_calib_is_the_select_set(net: onnx.ModelProto, ranges: Any, tmp_path: Path) -> None:
    report = qtool.quantize(net, tmp_path / "q.onnx", options(ranges=ranges, data=OTHER)).report
    assert report.selection is not None
    assert (report.selection.samples, report.selection.judge_independent) == (len(CALIB), True)
    assert [gain.name for gain in report.recovered][:1] == ["gptq"]
    assert report.trials


def test_a_float_fallback_keeps_the_recovery_log(net: onnx.ModelProto, tmp_path: Path) -> None:
    result = qtool.quantize(net, tmp_path / "q.onnx", options(data=OTHER, min_sqnr=150.0))
    assert not result.plan.sites, "no stored weight is that accurate either"
    gains = result.report.recovered
    assert [gain.name for gain in gains if gain.kept and gain.before_placement] == ["gptq"]
    assert not any(gain.applied for gain in gains)


def test_steps_that_the_result_has_are_marked_as_applied(usual: tuple[qtool.Result, Path]) -> None:
    gains = usual[0].report.recovered
    assert any(gain.applied for gain in gains)
    assert all(gain.kept for gain in gains if gain.applied)


def test_a_replay_does_not_depend_on_timings(
    net: onnx.ModelProto, usual: tuple[qtool.Result, Path], tmp_path: Path
) -> None:
    """The digest in the metadata is of decisions: not of timings, nor of reasons."""
    result, output = usual
    plan = serial.from_json(serial.to_json(result.plan), "plan.json")
    slower = [replace(region, int8_us=region.int8_us * 2, why="slower") for region in plan.regions]
    others = [Skip(s.node, s.op, Reason(Code.NOT_FASTER, "other words")) for s in plan.skips]
    assert slower
    edited = replace(plan, regions=tuple(slower), skips=tuple(others))
    for name, one in {"same": plan, "edited": edited}.items():
        replayed = qtool.quantize(
            net, tmp_path / name, options(calib=None, plan=one, data=FAR, keep_failed=True)
        )
        assert (tmp_path / name).read_bytes() == output.read_bytes()
        assert replayed.report.plan_sha256 == result.report.plan_sha256
    assert metadata(output)["qtool.plan_sha256"] == result.report.plan_sha256


@pytest.mark.parametrize(
    ("count", "note", "independent", "judge_independent"),
    [
        (7, "the 7 samples that also set the ranges and made every choice", False, False),
        (9, "samples of 9 that also made every choice", True, False),
        (12, "", True, True),
    ],
)
def test_the_report_names_dependent_sample_sets(
    count: int, note: str, independent: bool, judge_independent: bool, net: onnx.ModelProto, tmp_path: Path
) -> None:
    settings = options(calib=CALIB[:count], effort="fast", gate="none")
    report = qtool.quantize(net, tmp_path / "q.onnx", settings).report
    assert report.selection is not None
    assert (report.selection.independent, report.selection.judge_independent) == (
        independent,
        judge_independent,
    )
    told = [warning for warning in report.warnings if "the verdict is optimistic" in warning]
    assert len(told) == bool(note)
    assert all(note in warning for warning in told)


class Counted(dict[str, np.ndarray]):
    """A sample that counts how often it is read."""

    reads: ClassVar[Counter[int]] = Counter()

    def items(self) -> ItemsView[str, np.ndarray]:  # type: ignore[override]
        self.reads[id(self)] += 1
        return super().items()


def test_tune_judges_the_chosen_point_alone(net: onnx.ModelProto, tmp_path: Path) -> None:
    """The trials have the numbers of the select set. The judge set is read once, and some of it to time."""
    judge: Sequence[Counted] = [Counted(sample) for sample in samples(12, seed=3, x=SHAPE)]
    result = qtool.tune(net, tmp_path / "q.onnx", options(data=judge, recover="none", gate="none"), points=2)
    report = result.report
    trials = {trial.name: trial for trial in report.trials}
    assert len(trials) >= 2
    assert report.selection is not None
    assert report.comparison is not None
    assert trials[report.chosen].sqnr == report.selection.sqnr
    assert report.comparison.sqnr not in {trial.sqnr for trial in report.trials}
    reads = [Counted.reads[id(sample)] for sample in judge]
    assert sorted(reads)[: len(judge) // 2] == [1] * (len(judge) // 2)
    assert max(reads) <= 3
