"""One gate engine: `[OUTPUT:]METRIC OP NUMBER`, for every command that can fail a build.

A gate names the failure ('sqnr<20' fails below 20 dB). It also fails when there is nothing to judge:
a value that is nan or missing passes nothing.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from qtool.errors import UsageError, did_you_mean
from qtool.evaluate.compare import Comparison
from qtool.evaluate.output_metrics import OutputMetrics


@dataclass(frozen=True)
class Verdict:
    """The figures that gates are judged by; None: not measured.

    Args:
        synthetic: measured on random samples, which satisfy no gate.
    """

    comparison: Comparison | None = None
    speedup: float | None = None
    size: float | None = None
    quantized: int | None = None
    synthetic: bool = False

    @property
    def user_metrics(self) -> Mapping[str, float]:
        """The user's own metrics (evaluate/user_metrics.py)."""
        return self.comparison.user_metrics if self.comparison else {}


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics.

    Args:
        help: one line, with the unit.
        of_output: its value for one output; None for metrics of the whole model.
        of_model: its value for the model.
        of_samples: whether it depends on the samples.
        interval: its 95% interval for one output, over samples; None: it has none.
        interval_of_model: the same of metrics of the whole model, for gates that must be sure.
    """

    help: str
    of_model: Callable[[Verdict], float]
    of_output: Callable[[OutputMetrics], float] | None = None
    of_samples: bool = True
    interval: Callable[[OutputMetrics], tuple[float, float]] | None = None
    interval_of_model: Callable[[Verdict], tuple[float, float] | None] | None = None


def _over_outputs(
    measure: str,
    pick: Callable[..., float],
    text: str,
    interval: Callable[[OutputMetrics], tuple[float, float]] | None = None,
) -> Metric:
    def of_model(verdict: Verdict) -> float:
        return verdict.comparison.worst(measure, pick) if verdict.comparison else math.nan

    def of_output(output: OutputMetrics) -> float:
        return float(getattr(output, measure))

    return Metric(text, of_model, of_output, interval=interval)


def _accuracy(measure: str) -> Callable[[Verdict], float]:
    def of_model(verdict: Verdict) -> float:
        accuracy = verdict.comparison.accuracy if verdict.comparison else None
        return float(getattr(accuracy, measure)) if accuracy else math.nan

    return of_model


METRICS: dict[str, Metric] = {
    "sqnr": _over_outputs("sqnr", min, "signal to quantization noise of the worst output, dB"),
    "sqnr_worst": _over_outputs("sqnr_worst", min, "the same on the worst sample, dB"),
    "sqnr_centred": _over_outputs("centred_sqnr", min, "SQNR where a common offset is no signal, dB"),
    "cosine": _over_outputs("cosine", min, "cosine similarity, worst output"),
    "rel_l2": _over_outputs("relative_l2", max, "|a - b| / |a|, worst output"),
    "max_error": _over_outputs("max_error", max, "largest |a - b|"),
    "mean_error": _over_outputs("mean_error", max, "mean |a - b|, worst output"),
    "p99_error": _over_outputs("p99_error", max, "99th percentile of |a - b|, worst output"),
    "mismatch": _over_outputs("mismatch", max, "share of elements beyond --atol + --rtol |a|, worst output"),
    "kl": _over_outputs("kl", max, "divergence of the softmax, nats, worst output"),
    "top1": _over_outputs(
        "top1",
        min,
        "share of rows with the same largest entry, worst output",
        lambda output: output.top1_interval,
    ),
    "top5": _over_outputs(
        "top5",
        min,
        "share of rows whose largest entry is among the five largest, worst output",
        lambda output: output.top5_interval,
    ),
    "sequences": _over_outputs(
        "unchanged",
        min,
        "share of sequences that are unchanged (--task tokens or ctc), worst output",
        lambda output: output.unchanged_interval,
    ),
    "agreement": _over_outputs(
        "agreement",
        min,
        "share of rows (boxes, ..) that both models have, where their number depends on data, worst output",
        lambda output: output.agreement_interval,
    ),
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
    "accuracy_drop": Metric(
        "accuracy lost against FP32 (needs labels)",
        _accuracy("drop"),
        interval_of_model=lambda v: (
            v.comparison.accuracy.drop_interval if v.comparison and v.comparison.accuracy else None
        ),
    ),
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
_LARGEST = 1 << 20  # bytes of a file of gates
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_FORM = re.compile(
    rf"^\s*(?:(?P<output>.+):)?(?P<metric>\w+)\s*(?P<op><=|>=|<|>)\s*(?P<number>{_NUMBER})\s*$"
)


@dataclass(frozen=True)
class Gate:
    """A parsed gate.

    Args:
        sure: it fails only where the whole 95% interval does, as the default gates on decisions.
    """

    text: str
    output: str | None
    metric: str
    op: str
    threshold: float
    sure: bool = False


@dataclass(frozen=True)
class GateResult:
    """A gate and its outcome; `value` is nan when there was nothing to judge.

    Args:
        samples: number of samples it was judged on.
        synthetic: failed because the samples were random.
        interval: the 95% interval of the value over samples; None: it has none.
        inconclusive: failed because that interval holds the threshold.
    """

    gate: Gate
    value: float
    failed: bool
    samples: int = 0
    synthetic: bool = False
    interval: tuple[float, float] | None = None
    inconclusive: bool = False

    @property
    def why(self) -> str:
        """The outcome in one line."""
        if self.synthetic:
            return f"{self.gate.text}: random data satisfies no gate"
        if math.isnan(self.value):
            return f"{self.gate.text}: nothing to judge ({self.gate.metric} is not available)"
        text = f"{self.gate.text}: {self.gate.metric} is {self.value:.4g}"
        if self.inconclusive and self.interval:
            low, high = self.interval
            return f"{text}, inconclusive: {low:.4g} to {high:.4g} with 95% certainty; more samples decide"
        return f"{text} ({_help(self.gate.metric)})"


def _help(metric: str) -> str:
    return METRICS[metric].help if metric in METRICS else "of --metric"


def parse(text: str, user_metrics: Collection[str] = ()) -> Gate:
    """Return the gate of `[OUTPUT:]METRIC OP NUMBER`, such as sqnr<20 or logits:top1<0.99.

    Args:
        user_metrics: names of the user's own metrics.

    Raises:
        UsageError: not of that form, or no such metric.
    """
    match = _FORM.match(text)
    if not match:
        raise UsageError(
            f"gate '{text}' is not METRIC<NUMBER or METRIC>NUMBER", "for example: --fail-if 'sqnr<20'"
        )
    metric, output = match["metric"], match["output"]
    names = [*METRICS, *user_metrics]
    if metric not in names:
        hint = did_you_mean(metric, names) or f"metrics: {', '.join(names)}"
        raise UsageError(f"gate '{text}': no metric '{metric}'", hint)
    if output and (metric in user_metrics or METRICS[metric].of_output is None):
        raise UsageError(f"gate '{text}': {metric} is measured on the whole model, not on one output")
    return Gate(text.strip(), output, metric, match["op"], float(match["number"]))


def judge(gates: list[Gate], verdict: Verdict) -> list[GateResult]:
    """Judge gates by the figures of a run.

    Raises:
        UsageError: a gate on an output that the model does not have.
    """
    return [_judge(gate, verdict) for gate in gates]


def _judge(gate: Gate, verdict: Verdict) -> GateResult:
    if gate.metric in verdict.user_metrics or gate.metric not in METRICS:
        metric = Metric("", lambda v: v.user_metrics.get(gate.metric, math.nan))
    else:
        metric = METRICS[gate.metric]
    comparison = verdict.comparison
    outputs = {o.name: o for o in comparison.outputs} if comparison else {}
    interval = None
    if gate.output is None or metric.of_output is None:
        value = metric.of_model(verdict)
        judged = list(outputs.values())
    else:
        if comparison and gate.output not in outputs:
            hint = did_you_mean(gate.output, outputs) or f"outputs: {', '.join(outputs)}"
            raise UsageError(f"gate '{gate.text}': no output '{gate.output}'", hint)
        judged = [outputs[gate.output]] if gate.output in outputs else []
        value = metric.of_output(judged[0]) if judged else math.nan
    fails = _OPERATORS[gate.op]
    synthetic = verdict.synthetic and metric.of_samples
    unjudged = synthetic or math.isnan(value)
    failed, inconclusive = unjudged or fails(value, gate.threshold), False
    if not unjudged and (gate.sure or not failed):
        interval = _interval(metric, judged, verdict if gate.sure else None)
    if interval is not None:
        ends = [fails(end, gate.threshold) for end in interval]
        failed, inconclusive = (all(ends), False) if gate.sure else (False, any(ends))
    samples = comparison.samples if comparison else 0
    return GateResult(gate, value, failed or inconclusive, samples, synthetic, interval, inconclusive)


def _interval(
    metric: Metric, judged: list[OutputMetrics], verdict: Verdict | None
) -> tuple[float, float] | None:
    """The 95% interval of the worst output; that of the model's metrics only with a verdict."""
    if metric.interval is None or metric.of_output is None:
        return metric.interval_of_model(verdict) if verdict and metric.interval_of_model else None
    intervals = [metric.interval(o) for o in judged if not math.isnan(metric.of_output(o))]
    return min(low for low, _ in intervals), min(high for _, high in intervals)


def read_gates(path: Path) -> list[str]:
    """Return the gates of a file, one a line; '#' begins a comment.

    Raises:
        UsageError: the file can't be read, or has no gate.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"gates '{path}': larger than {_LARGEST:,} bytes", "is it the right file?")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"gates '{path}' can't be read: {reason}") from error
    gates = [text for line in lines if (text := line.partition("#")[0].strip())]
    if not gates:
        raise UsageError(f"gates '{path}': the file has no gate", "one gate a line, such as: sqnr<20")
    return gates
