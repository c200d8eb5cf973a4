"""Gates: their syntax, their judgement, and that nothing passes unmeasured."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qtool.errors import UsageError
from qtool.evaluate.compare import Comparison
from qtool.evaluate.gates import METRICS, Verdict, judge, parse, read_gates
from qtool.evaluate.labels import Accuracy
from qtool.evaluate.output_metrics import OutputAccumulator, OutputMetrics
from qtool.numerics.metrics import TOLERANCE

GOOD = OutputMetrics(
    name="logits", exact=False, count=100, sqnr=30.0, sqnr_worst=25.0, worst_sample="7", cosine=0.99,
    relative_l2=0.03, max_error=0.5, mean_error=0.1, top1=0.98, rows=10, nonfinite=0, unequal=0,
)  # fmt: skip
BOXES = replace(GOOD, name="boxes", sqnr=20.0, max_error=2.0, top1=0.5)


def verdict(*outputs: OutputMetrics, accuracy: Accuracy | None = None) -> Verdict:
    return Verdict(Comparison("eval", 10, outputs, accuracy), speedup=2.0, size=0.25)


PARSED = {
    "sqnr<20": (None, "sqnr", "<", 20.0),
    " sqnr <= 20 ": (None, "sqnr", "<=", 20.0),
    "max_error>=1e-3": (None, "max_error", ">=", 1e-3),
    "accuracy_drop>.005": (None, "accuracy_drop", ">", 0.005),
    "sqnr<-3": (None, "sqnr", "<", -3.0),
    "logits:top1<0.99": ("logits", "top1", "<", 0.99),
    "a:b:sqnr<1": ("a:b", "sqnr", "<", 1.0),
    "/out/layer 0:sqnr<1": ("/out/layer 0", "sqnr", "<", 1.0),
    "speedup<1": (None, "speedup", "<", 1.0),
}


@pytest.mark.parametrize(("text", "wanted"), PARSED.items(), ids=PARSED)
def test_a_gate_is_output_metric_operator_number(
    text: str, wanted: tuple[str | None, str, str, float]
) -> None:
    gate = parse(text)
    assert (gate.output, gate.metric, gate.op, gate.threshold) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "sqnr", "sqnr<", "<20", "sqnr=20", "sqnr==20", "sqnr!=2", "20>sqnr", "sqnr<twenty", "sqnr<nan", "sqnr<inf",
     "sqnr<20 and top1<1", "sqnr<2 0", "sqnr<0x10"],
)  # fmt: skip
def test_a_malformed_gate_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize(
    ("wrong", "right"), [("sqrn<20", "sqnr"), ("cosin<1", "cosine"), ("acuracy<1", "accuracy")]
)
def test_a_misspelt_metric_gets_a_hint(wrong: str, right: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(wrong)
    assert right in caught.value.hint


def test_an_unknown_metric_gets_the_list() -> None:
    with pytest.raises(UsageError) as caught:
        parse("zzz<1")
    assert all(m in caught.value.hint for m in METRICS)


@pytest.mark.parametrize("metric", ["accuracy", "accuracy_drop", "speedup", "size"])
def test_metrics_of_the_whole_model_have_no_output(metric: str) -> None:
    with pytest.raises(UsageError, match="whole model"):
        parse(f"logits:{metric}<1")


def test_a_gate_on_an_unknown_output_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as caught:
        judge([parse("logit:sqnr<20")], verdict(GOOD))
    assert "logits" in caught.value.hint


JUDGED = {
    "sqnr<20": False,
    "sqnr<20.1": True,
    "sqnr<=20": True,
    "sqnr>20": False,
    "sqnr>=20": True,
    "logits:sqnr<25": False,
    "boxes:sqnr<25": True,
    "max_error>1": True,
    "logits:max_error>1": False,
    "top1<0.6": True,
    "logits:top1<0.6": False,
    "unequal>0": False,
    "nonfinite>0": False,
    "speedup<1": False,
    "speedup<2.5": True,
    "size>0.3": False,
    "accuracy<0.9": False,
    "accuracy_drop>0.02": False,
    "accuracy_drop>0.005": True,
}


@pytest.mark.parametrize(("text", "failed"), JUDGED.items(), ids=JUDGED)
def test_a_gate_fails_when_its_expression_holds_for_the_worst_output(text: str, failed: bool) -> None:
    (result,) = judge([parse(text)], verdict(GOOD, BOXES, accuracy=Accuracy(0.95, 0.94, 100)))
    assert result.failed is failed
    assert text in result.why


def fails_both_ways(metric: str, figures: Verdict) -> bool:
    """Whether a gate that any number passes, and one that any number fails, both fail."""
    return all(judge([parse(f"{metric}{op}")], figures)[0].failed for op in ("<-1e30", ">1e30"))


def test_a_gate_without_anything_to_judge_fails() -> None:
    assert all(fails_both_ways(metric, Verdict()) for metric in METRICS)
    (result,) = judge([parse("sqnr<20")], Verdict())
    assert math.isnan(result.value) and "nothing to judge" in result.why


FLOAT_METRICS = sorted(m for m, row in METRICS.items() if row.of_output and m not in ("unequal", "nonfinite"))
MEASURES = ("sqnr", "sqnr_worst", "cosine", "relative_l2", "max_error", "mean_error", "top1")


def measured(a: np.ndarray, b: np.ndarray) -> OutputMetrics:
    accumulator = OutputAccumulator("logits", ["n"], TOLERANCE)
    accumulator.add("0.npz", a, b)
    return accumulator.metrics()


def test_nan_integers_and_empty_outputs_pass_no_gate_on_floats() -> None:
    """Labels that all differ have no error and no cosine, which must not mean that all is well."""
    nothing = np.zeros(0, np.float32)
    cases = {
        "nan": (replace(GOOD, **dict.fromkeys(MEASURES, math.nan)), BOXES),
        "integers": (measured(np.arange(6), np.arange(6) + 1),),
        "empty": (measured(nothing, nothing),),
    }
    for name, outputs in cases.items():
        for metric in FLOAT_METRICS:
            assert fails_both_ways(metric, verdict(*outputs)), (name, metric)
            assert fails_both_ways(f"logits:{metric}", verdict(*outputs)), (name, metric)


def test_exact_outputs_do_not_count_in_the_floats_of_a_model() -> None:
    labels = replace(GOOD, name="label", exact=True, unequal=3, sqnr=math.nan)
    results = judge([parse("sqnr<29"), parse("unequal>2"), parse("label:unequal>3")], verdict(GOOD, labels))
    assert [r.failed for r in results] == [False, True, False]


def test_outputs_without_rows_are_left_out_of_top1() -> None:
    scalar = replace(GOOD, name="score", rows=0, top1=math.nan)
    (result,) = judge([parse("top1<0.9")], verdict(replace(GOOD, rows=1000), scalar))
    assert not result.failed
    (alone,) = judge([parse("top1<0.9")], verdict(scalar))
    assert alone.failed


def test_exact_models_pass_their_floor() -> None:
    (result,) = judge([parse("sqnr<20")], verdict(replace(GOOD, sqnr=math.inf)))
    assert not result.failed


def test_every_metric_is_in_the_help_of_the_command_line() -> None:
    from click.testing import CliRunner

    from qtool.cli.main import cli

    for command in ("quantize", "compare"):
        text = CliRunner().invoke(cli, [command, "--help-all"]).output
        assert all(metric in text for metric in METRICS)


@pytest.mark.parametrize(
    ("gate", "rows", "top1", "failed", "inconclusive"),
    [
        ("top1<0.99", 200, 1.0, True, True),  # 200 of 200: 0.981 to 1
        ("top1<0.98", 200, 1.0, False, False),
        ("top1<0.99", 400, 1.0, False, False),
        ("top1<0.9", 200, 0.91, True, True),
        ("top1<0.9", 200, 0.89, True, False),  # it fails anyway
        ("top1<0.9", 10_000, 0.91, False, False),
        ("top1>0.95", 200, 0.94, True, True),
        ("top5<0.9", 200, 0.91, True, True),
        ("logits:top1<0.9", 200, 0.91, True, True),
    ],
)
def test_agreement_that_few_samples_can_not_decide_is_inconclusive_and_fails(
    gate: str, rows: int, top1: float, failed: bool, inconclusive: bool
) -> None:
    (result,) = judge([parse(gate)], verdict(replace(GOOD, rows=rows, top1=top1, top5=top1)))
    assert (result.failed, result.inconclusive) == (failed, inconclusive)
    assert ("inconclusive" in result.why) == inconclusive


def test_a_user_metric_can_be_gated() -> None:
    comparison = Comparison("eval", 10, (GOOD,), None, {"f1": 0.97})
    results = judge([parse("f1<0.98", ["f1"]), parse("f1<0.9", ["f1"])], Verdict(comparison))
    assert [r.failed for r in results] == [True, False]
    (unmeasured,) = judge([parse("f1<0.9", ["f1"])], Verdict(None))
    assert unmeasured.failed
    with pytest.raises(UsageError):
        parse("f1<0.98")
    with pytest.raises(UsageError, match="whole model"):
        parse("logits:f1<0.98", ["f1"])


def test_random_samples_satisfy_no_gate_on_samples() -> None:
    gates = [parse(text) for text in ("sqnr<1", "speedup<0.1", "size>0.9", "quantized<0")]
    made_up = replace(verdict(GOOD), synthetic=True, quantized=3)
    assert [r.failed for r in judge(gates, made_up)] == [True, True, False, False]


def test_a_file_of_gates_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "gates.txt"
    file.write_text("# what we ship\nsqnr<20   # dB\n\nlogits:top1<0.99\n")
    assert read_gates(file) == ["sqnr<20", "logits:top1<0.99"]


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe\x00"])
def test_a_file_without_gates_is_a_usage_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "gates.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"gates\.txt"):
        read_gates(tmp_path / "gates.txt")
