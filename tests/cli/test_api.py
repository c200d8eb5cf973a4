"""`import qtool`: the same job for Python callers, typed, and nothing imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
import typing
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from qtool.evaluate.evaluator import ORIGINAL, PREPARED
from qtool.evaluate.latency import Race
from qtool.plan import scheme
from qtool.plan.model import Kind
from qtool.tables.efforts import EFFORTS
from qtool.tables.judging import AUTO, NONE, TASK, TASKS, USUAL
from qtool.tables.methods import METHODS
from qtool.tables.modes import MODES, WEIGHT_BITS
from qtool.tables.reasons import Code
from qtool.tables.targets import TARGETS
from tests.rewrite.zoo import CASES


def test_importing_costs_nothing() -> None:
    code = "import qtool, sys; print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'onnx', 'onnxruntime', 'click', 'rich'}))"  # fmt: skip
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


@pytest.mark.parametrize("name", qtool.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    public = getattr(qtool, name)
    assert public.__doc__ or issubclass(public, qtool.QtoolError)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="quantise"):
        qtool.quantise  # noqa: B018


CHOICES: dict[str, Collection[object]] = {
    "mode": MODES, "target": ("auto", "best", *TARGETS), "effort": EFFORTS, "method": METHODS, "gate": (NONE, TASK, USUAL, AUTO),
    "task": ("", *TASKS),
    "format": scheme.FORMATS, "io": scheme.IO_TYPES, "prefer": scheme.PREFERENCES, "bits": WEIGHT_BITS,
    "block": (0, *scheme.BLOCKS), "weights": ("", *(t.name for t in scheme.WEIGHT_TYPES)),
    "acts": ("", *(t.name for t in scheme.ACTIVATION_TYPES)),
}  # fmt: skip


def test_the_types_of_options_list_the_choices_of_the_tables() -> None:
    hints = typing.get_type_hints(qtool.Options)
    assert {name: set(typing.get_args(hints[name])) for name in CHOICES} == {
        name: set(words) for name, words in CHOICES.items()
    }


def test_errors_name_arguments_in_python_and_options_on_the_command_line() -> None:
    error = qtool.UsageError("--min-sqnr 3: see --set and --json", "leave out --fail-if")
    assert str(error) == "min_sqnr 3: see sets and --json"
    assert error.__notes__ == ["hint: leave out fail_if"]
    assert (error.message, error.hint) == ("--min-sqnr 3: see --set and --json", "leave out --fail-if")


def test_results_can_be_saved_shown_and_read_back(tmp_path: Path) -> None:
    case = CASES["residual"]
    options = generic(calib=case.samples(), fail_if="sqnr<1")
    result = qtool.quantize(case.build(), tmp_path / "q.onnx", options)
    report, plan = result.report, result.plan
    assert repr(report).startswith("<Report of quantize: ") and ", 2 gates held; written to " in repr(report)
    assert repr(plan).startswith("<Plan of static on generic: ")
    assert repr(result) == f"<Result ok: {report!r}, {plan!r}>"
    assert report.to_markdown().startswith("## ") and "&amp;lt;" not in report._repr_html_()
    assert report._repr_html_().startswith("<pre>") and "Conv" in report._repr_html_()
    plan.save(tmp_path / "plan.json")
    assert qtool.Plan.load(tmp_path / "plan.json").sites == plan.sites
    for suffix in ("json", "md", "xml", "csv"):
        report.save(tmp_path / f"run.{suffix}")
    assert qtool.read_report(tmp_path / "run.json").to_markdown() == (tmp_path / "run.md").read_text()
    with pytest.raises(qtool.UsageError, match="suffix"):
        report.save(tmp_path / "run.doc")


def generic(**options: Any) -> qtool.Options:
    """Options that take no time: the rules' plan, and no speed."""
    return qtool.Options(target="generic", timing="table", effort="fast", **options)


def _generator(samples: list[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    yield from samples


@pytest.mark.parametrize("form", ["list", "tuple", "generator"])
def test_samples_may_be_any_iterable_of_dicts(form: str, tmp_path: Path) -> None:
    case = CASES["residual"]
    made = [s for _ in range(2) for s in case.samples()]
    calib = {"list": made, "tuple": tuple(made), "generator": _generator(made)}[form]
    out = tmp_path / "q.onnx"
    result = qtool.quantize(case.build(), out, generic(calib=calib))
    assert result.ok
    assert out.exists()
    assert result.report.quantized_nodes == len(result.plan.forms) > 0
    assert result.report.comparison is not None
    assert result.report.comparison.sqnr >= case.floor


def test_a_model_in_memory_is_not_changed(tmp_path: Path) -> None:
    case = CASES["if-weights"]
    proto = case.build()
    before = proto.SerializeToString(deterministic=True)
    options = generic(calib=case.samples(), data=case.samples())
    result = qtool.quantize(proto, tmp_path / "q.onnx", options)
    qtool.dry_run(proto, options)
    report = qtool.compare(proto, onnx.load(tmp_path / "q.onnx"), case.samples())
    assert proto.SerializeToString(deterministic=True) == before
    assert report.comparison is not None
    assert result.report.comparison is not None
    assert report.comparison.outputs == result.report.comparison.outputs


@pytest.fixture
def slow_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine does, int8 is measured at half the speed of FP32."""

    def race(models: Collection[str], samples: object, threads: int, **more: object) -> Race:
        return Race(1, {n: (1.0 if n in (ORIGINAL, PREPARED) else 2.0,) * 9 for n in models})

    monkeypatch.setattr("qtool.evaluate.evaluator.race_models", race)
    monkeypatch.setattr("qtool.commands.verdict.race_models", race)


@pytest.mark.usefixtures("slow_int8")
def test_int8_that_is_slower_gives_way_to_float(tmp_path: Path) -> None:
    case = CASES["residual"]
    options = qtool.Options(calib=case.samples(), effort="fast")  # placement has clocks of its own
    result = qtool.quantize(case.build(), tmp_path / "q.onnx", options)
    assert not result.plan.forms
    assert any(s.reason.code is Code.NOT_FASTER for s in result.plan.skips)
    assert any("0 of" in w and "not faster" in w for w in result.report.warnings)
    assert {s.kind for s in result.plan.sites} == {Kind.STORED}, "the file is smaller all the same"


@pytest.mark.usefixtures("slow_int8")
def test_generic_is_for_another_runtime_and_no_speed_here_decides(tmp_path: Path) -> None:
    case = CASES["residual"]
    options = generic(calib=case.samples())
    assert qtool.quantize(case.build(), tmp_path / "q.onnx", options).plan.forms


NAMED: list[dict[str, Any]] = [
    {"per_tensor": True}, {"symmetric": True}, {"format": "qoperator"}, {"method": "mse"}, {"include": ["op:Conv"]},
]  # fmt: skip


@pytest.mark.usefixtures("slow_int8")
@pytest.mark.parametrize("named", NAMED, ids=lambda named: next(iter(named)))
def test_what_options_name_is_given_though_it_is_slower(named: dict[str, Any], tmp_path: Path) -> None:
    case = CASES["residual"]
    options = qtool.Options(calib=case.samples(), effort="fast", **named)
    result = qtool.quantize(case.build(), tmp_path / "q.onnx", options)
    assert len(result.plan.forms) > 3
    flag = f"--{next(iter(named)).replace('_', '-')}"
    assert any("slower than FP32" in w and flag in w and "--allow-float" in w for w in result.report.warnings)
    allowed = replace(options, allow_float=True)
    if not named.keys() & {
        "format",
        "include",
    }:  # speed never decides on integer operators and on these nodes
        assert not qtool.quantize(case.build(), tmp_path / "f.onnx", allowed).plan.forms


@pytest.mark.usefixtures("slow_int8")
@pytest.mark.parametrize(
    "named", [{"exclude": ["Conv_y"]}, {"sets": ["Conv_y=fp32"]}], ids=lambda n: next(iter(n))
)
def test_what_stays_in_float_is_no_request_for_int8(named: dict[str, Any], tmp_path: Path) -> None:
    case = CASES["residual"]
    options = qtool.Options(calib=case.samples(), effort="fast", **named)
    assert not qtool.quantize(case.build(), tmp_path / "q.onnx", options).plan.forms


INSISTED = {
    "op:Conv": {"Conv_c0", "Conv_c1", "Conv_c2", "Conv_y"},
    "Conv_c1": {"Conv_c1"},
    "op:Add": {"Add_a"},
}


@pytest.mark.usefixtures("slow_int8")
@pytest.mark.parametrize(("pattern", "wanted"), INSISTED.items(), ids=INSISTED)
def test_included_nodes_stay_int8_when_they_are_slower(
    pattern: str, wanted: set[str], tmp_path: Path
) -> None:
    """Giving up the rest moves the places of the Qs: those need ranges too."""
    case = CASES["residual"]
    options = qtool.Options(calib=case.samples(), include=[pattern], effort="fast")
    result = qtool.quantize(case.build(), tmp_path / "q.onnx", options)
    assert wanted <= result.plan.forms.keys()
    assert result.plan.resolved
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=True)


def test_a_failing_gate_is_a_result_and_not_an_exception(tmp_path: Path) -> None:
    """A gate on one output is no aim, so nothing goes back to float for it."""
    case = CASES["residual"]
    options = generic(calib=case.samples(), fail_if=["y:sqnr<200"])
    result = qtool.quantize(case.build(), tmp_path / "q.onnx", options)
    assert not result.ok
    assert [g.gate.text for g in result.report.failed] == ["y:sqnr<200"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (qtool.Options(), qtool.UsageError),
        (qtool.Options(mode="statik"), qtool.UsageError),
        (qtool.Options(target="gpu"), qtool.UsageError),
        (qtool.Options(calib=[]), qtool.DataError),
        (qtool.Options(calib=[3]), qtool.DataError),  # type: ignore[list-item]
        (qtool.Options(calib="no such folder"), qtool.DataError),
        (qtool.Options(calib=[{"x": np.zeros(3)}]), qtool.DataError),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_mistakes_raise_our_errors(options: qtool.Options, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        qtool.quantize(CASES["residual"].build(), tmp_path / "q.onnx", options)
    assert list(tmp_path.iterdir()) == []


def test_data_is_the_judge_set(tmp_path: Path) -> None:
    case = CASES["residual"]
    options = generic(calib=case.samples(), data=case.samples()[:2])
    result = qtool.quantize(case.build(), tmp_path / "q.onnx", options)
    assert result.report.comparison is not None
    assert result.report.comparison.samples == 2


def test_the_report_says_that_samples_are_too_few_for_three_sets(tmp_path: Path) -> None:
    case = CASES["residual"]
    result = qtool.quantize(case.build(), tmp_path / "q.onnx", generic(calib=case.samples()))
    assert any("the verdict is optimistic" in w for w in result.report.warnings)
