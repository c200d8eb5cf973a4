"""One gate engine: `[OUTPUT:]METRIC OP NUMBER`, for every command that can fail a build.

A gate names the failure ('sqnr<20' fails below 20 dB). It also fails when there is nothing to judge:
a value that is nan or missing passes nothing.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from qtool.errors import UsageError, did_you_mean
from qtool.validate.compare import Comparison, OutputMetrics


@dataclass(frozen=True)
class Verdict:
    """Everything that a gate may ask about; None: not measured.

    Args:
        synthetic: measured on made-up samples, which decide nothing.
    """

    comparison: Comparison | None = None
    speedup: float | None = None
    size: float | None = None
    quantized: int | None = None
    synthetic: bool = False


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics.

    Args:
        help: what it is, with its unit.
        of_output: the measure of one output; None for metrics of the whole model.
        of_model: the measure of the model.
        of_samples: whether it depends on the samples.
    """

    help: str
    of_model: Callable[[Verdict], float]
    of_output: Callable[[OutputMetrics], float] | None = None
    of_samples: bool = True


def _over_outputs(measure: str, pick: Callable[..., float], text: str) -> Metric:
    def of_model(verdict: Verdict) -> float:
        return verdict.comparison.worst(measure, pick) if verdict.comparison else math.nan

    def of_output(output: OutputMetrics) -> float:
        return float(getattr(output, measure))

    return Metric(text, of_model, of_output)


def _accuracy(measure: str) -> Callable[[Verdict], float]:
    def of_model(verdict: Verdict) -> float:
        accuracy = verdict.comparison.accuracy if verdict.comparison else None
        return float(getattr(accuracy, measure)) if accuracy else math.nan

    return of_model


METRICS: dict[str, Metric] = {
    "sqnr": _over_outputs("sqnr", min, "signal to quantization noise of the worst output, dB"),
    "sqnr_worst": _over_outputs("sqnr_worst", min, "the same on the worst sample, dB"),
    "cosine": _over_outputs("cosine", min, "cosine similarity, worst output"),
    "rel_l2": _over_outputs("relative_l2", max, "|a - b| / |a|, worst output"),
    "max_error": _over_outputs("max_error", max, "largest |a - b|"),
    "mean_error": _over_outputs("mean_error", max, "mean |a - b|, worst output"),
    "top1": _over_outputs("top1", min, "share of rows with the same largest entry, worst output"),
    "unequal": Metric(
        "elements of integer, bool and string outputs that differ",
        lambda v: float(sum(o.unequal for o in v.comparison.outputs)) if v.comparison else math.nan,
        lambda o: float(o.unequal),
    ),
    "nonfinite": Metric(
        "elements that are finite in FP32 only",
        lambda v: float(sum(o.nonfinite for o in v.comparison.outputs)) if v.comparison else math.nan,
        lambda o: float(o.nonfinite),
    ),
    "accuracy": Metric("accuracy of the quantized model (needs labels)", _accuracy("quantized")),
    "accuracy_drop": Metric("accuracy lost against FP32 (needs labels)", _accuracy("drop")),
    "speedup": Metric("FP32 time / quantized time", lambda v: math.nan if v.speedup is None else v.speedup),
    "quantized": Metric(
        "nodes that compute in int8",
        lambda v: math.nan if v.quantized is None else float(v.quantized),
        of_samples=False,
    ),
    "size": Metric(
        "quantized bytes / FP32 bytes", lambda v: math.nan if v.size is None else v.size, of_samples=False
    ),
}

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(
    rf"^\s*(?:(?P<output>.+):)?(?P<metric>\w+)\s*(?P<op><=|>=|<|>)\s*(?P<number>{_NUMBER})\s*$"
)


@dataclass(frozen=True)
class Gate:
    """A parsed gate."""

    text: str
    output: str | None
    metric: str
    op: str
    threshold: float


@dataclass(frozen=True)
class GateResult:
    """A gate and what became of it; `value` is nan when there was nothing to judge.

    Args:
        synthetic: failed because the samples were made up.
    """

    gate: Gate
    value: float
    failed: bool
    synthetic: bool = False

    @property
    def why(self) -> str:
        """One line for a person."""
        if self.synthetic:
            return f"{self.gate.text}: random data satisfies no gate"
        if math.isnan(self.value):
            return f"{self.gate.text}: nothing to judge ({self.gate.metric} is not available)"
        return f"{self.gate.text}: {self.gate.metric} is {self.value:.4g} ({METRICS[self.gate.metric].help})"


def parse(text: str) -> Gate:
    """`[OUTPUT:]METRIC OP NUMBER`, such as sqnr<20 or logits:top1<0.99.

    Raises:
        UsageError: not of that form, or no such metric.
    """
    found = _FORM.match(text)
    if not found:
        raise UsageError(
            f"gate '{text}' is not METRIC<NUMBER or METRIC>NUMBER", "for example: --fail-if 'sqnr<20'"
        )
    metric, output = found["metric"], found["output"]
    if metric not in METRICS:
        hint = did_you_mean(metric, METRICS) or f"metrics: {', '.join(METRICS)}"
        raise UsageError(f"gate '{text}': no metric '{metric}'", hint)
    if output and METRICS[metric].of_output is None:
        raise UsageError(f"gate '{text}': {metric} is measured on the whole model, not on one output")
    return Gate(text.strip(), output, metric, found["op"], float(found["number"]))


def judge(gates: list[Gate], verdict: Verdict) -> list[GateResult]:
    """Apply gates to what was measured.

    Raises:
        UsageError: a gate on an output that the model does not have.
    """
    return [_judge(gate, verdict) for gate in gates]


def _judge(gate: Gate, verdict: Verdict) -> GateResult:
    metric = METRICS[gate.metric]
    if gate.output is None or metric.of_output is None:
        value = metric.of_model(verdict)
    else:
        outputs = {o.name: o for o in verdict.comparison.outputs} if verdict.comparison else {}
        if verdict.comparison and gate.output not in outputs:
            hint = did_you_mean(gate.output, outputs) or f"outputs: {', '.join(outputs)}"
            raise UsageError(f"gate '{gate.text}': no output '{gate.output}'", hint)
        value = metric.of_output(outputs[gate.output]) if gate.output in outputs else math.nan
    synthetic = verdict.synthetic and metric.of_samples
    failed = synthetic or math.isnan(value) or _OPERATORS[gate.op](value, gate.threshold)
    return GateResult(gate, value, failed, synthetic)
