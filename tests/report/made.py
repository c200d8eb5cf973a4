"""Reports made by hand, and any report at all."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from enum import Enum
from typing import Any

from hypothesis import strategies as st

from qtool.evaluate.audit import Audit, Deviation
from qtool.evaluate.compare import Comparison
from qtool.evaluate.evaluator import Gain
from qtool.evaluate.gates import Verdict, judge, parse
from qtool.evaluate.labels import Accuracy
from qtool.evaluate.latency import Race, Ratio
from qtool.evaluate.output_metrics import OutputMetrics
from qtool.placement.trials import Trial
from qtool.plan.model import RegionNote, Skip
from qtool.report.model import (
    COMMANDS,
    FLOAT,
    CoverageRow,
    Explained,
    ModelFile,
    ReasonCount,
    Report,
    SearchCost,
    Selection,
    Timing,
)
from qtool.report.schema import kinds_of
from qtool.tables.forms import Form
from qtool.tables.judging import TASKS
from qtool.tables.reasons import Code, Reason

OUTPUT = OutputMetrics(
    name="logits", exact=False, count=100, sqnr=math.inf, sqnr_worst=-math.inf, worst_sample="7.npz", cosine=math.nan,
    relative_l2=0.0, max_error=0.0, mean_error=0.0, top1=math.nan, rows=0, nonfinite=0, unequal=0,
)  # fmt: skip
SCORES = replace(
    OUTPUT, name="scores", sqnr=31.5, sqnr_worst=22.0, sqnr_mean=30.5, cosine=0.999, top1=0.99, top5=1.0, rows=200, kl=0.01,
    centred_sqnr=30.5, p99_error=0.2, mismatch=0.125, relative_l2=0.03, max_error=0.5, mean_error=0.0625, nonfinite=3,
    task="ctc", sequences=200, unchanged=0.995,
)  # fmt: skip
NO_FORM = Reason(Code.NO_FORM, "no quantized form")
ROWS = (
    CoverageRow(
        "Conv",
        5,
        {"int8": 3, "stored-int8": 1, "float": 1},
        (
            ReasonCount(Reason(Code.TARGET, "a first convolution"), 1),
            ReasonCount(Reason(Code.CONSTRAINT, "excluded by 'x'"), 1),
        ),
    ),
    CoverageRow("LSTM", 1, {"int8-dynamic": 1}),
    CoverageRow("Sin", 2, {"float": 2}, (ReasonCount(NO_FORM, 2),)),
    CoverageRow("Softmax", 1, {"float": 1}, (ReasonCount(Reason(Code.NOT_FASTER), 1),)),
)
COMPARISON = Comparison(
    "eval",
    4,
    (OUTPUT, replace(OUTPUT, name="label", exact=True, unequal=2)),
    Accuracy(1.0, 0.5, 4, samples=4),
)
REGIONS = (
    RegionNote(("conv", "relu"), 12.5, 4.25, 41.5, True, "8.2 us faster, and alone 41.5 dB", ("Conv", "Relu")),
    RegionNote(("pool",), 1.5, 3.5, math.inf, False, "not faster in int8 on this machine: 1.5 us float, 3.5 us int8", ("MaxPool",)),
)  # fmt: skip
TRIALS = (
    Trial("rule-based", 38.5, 37.0, 1.25, 1.5, (1.25, 1.75), 300, 1),
    Trial("all int8", 36.0, 34.5, 1.125, 1.25, (1.0, 1.5), 310, 2),
    Trial("mixed 1", 45.0, 44.0, 1.0625, 1.125, (1.0, 1.25), 305, 1),
    Trial("float", math.inf, math.inf, 1.0, 1.0, (1.0, 1.0), 290),
)
COST = SearchCost(41.5, 60, 12.5, 4.25, ("gptq",))
SELECTION = Selection(38.5, (37.0, 40.0), 8, independent=True, judge_independent=True, cost=COST)
GAINS = (
    Gain("bias", 30.0, 31.5, 0.5, kept=True, before_placement=True),
    Gain("gptq", 38.0, 38.5, 1.5, kept=True, applied=True),
    Gain("awq", 38.5, 38.25, 2.0, kept=False),
    Gain("adaround", math.nan, math.nan, 0.0, kept=False, failed="no memory"),
)
AUDIT = Audit(
    38, (Deviation("dw1", "Conv", "float", ("QLinearConv",), "runs in int8"), Deviation("sig", "Sigmoid", "float", ("QLinearSigmoid",), "runs in int8", True)),
    ("dw1_relu",), 24.5, 37.25,
)  # fmt: skip
FULL = Report(
    "quantize", "0.1", ModelFile("m.onnx", 1000, "ab"), ModelFile("q.onnx", 300), "static", "cpu", ("opset 9 -> 13",),
    ROWS, (Skip("sin", "Sin", NO_FORM),), COMPARISON, SELECTION,
    Timing.of(Race(1, {"original": (2.0, 2.0, 2.0), "prepared": (1.5, 1.5, 1.5), "quantized": (1.0, 1.0, 1.0)})),
    tuple(judge([parse("sqnr<20"), parse("accuracy<0.9")], Verdict(COMPARISON, 2.0, 0.3))), ("beware",), "cd",
    regions=REGIONS, trials=TRIALS, chosen="rule-based", recovered=GAINS,
    explained=(Explained("relu", "Relu", "int8", REGIONS[0].why, REGIONS[0]), Explained("shape", "Shape", "", "no floats")),
    audit=AUDIT,
)  # fmt: skip
BARE = Report("compare", "0.1", ModelFile("m.onnx", 0))
JUDGED = Comparison(
    "eval", 200, (SCORES, replace(SCORES, name="more", sqnr=28.0)), user_metrics={"f1": 0.875}
)
GATED = Report(
    "compare", "0.1", ModelFile("m.onnx", 1000), ModelFile("q.onnx", 300), comparison=JUDGED,
    gates=tuple(
        judge(
            [parse(g, ["f1"]) for g in ("sqnr<20", "sqnr<30", "scores:top1<0.98", "f1<0.9", "speedup<1")],
            Verdict(JUDGED),
        )
    ),
    warnings=("beware, of [this] | @you #1",),
)  # fmt: skip
SYNTHETIC = replace(
    GATED, synthetic=True, gates=tuple(judge([parse("sqnr<1")], Verdict(JUDGED, synthetic=True)))
)
TUNED = replace(FULL, command="tune", trials=tuple(replace(t, interval=None) for t in TRIALS), chosen="")
REPORTS = {"full": FULL, "bare": BARE, "gated": GATED, "synthetic": SYNTHETIC, "tuned": TUNED}

# Any text, of control characters and halves of characters too, and what means something somewhere.
MEANING = st.sampled_from(
    ["|", "`", "\\", "@a", "#1", "<b>", "&amp;", "]]>", "\n", "\r\n", "::error::", "%0A", ",", ":", '"', "'", "=1+1",
     "[x](http://y)", "www.a.com", "https://a.b", "*a*", "_a_", "~~a~~", "$x$", "![i](j)", "-->", "##[error]", "\x1b[0m"]
)  # fmt: skip
TEXTS = st.lists(MEANING | st.text(st.characters(exclude_categories=()), max_size=4), max_size=8).map("".join)


def named(text: str) -> Report:
    """A report with that text wherever foreign text can be."""
    output = replace(SCORES, name=text, worst_sample=text)
    comparison = replace(JUDGED, data=text, outputs=(output, output), user_metrics={text: 0.5})
    region = RegionNote((text, text), 1.0, 2.0, 3.0, True, text, (text,))
    reason = Reason(Code.CONSTRAINT, text)
    trials = tuple(Trial(text * n, 30.0, 29.0, n, n, (n, n), 10) for n in (1, 2))
    gates = tuple(replace(g, gate=replace(g.gate, text=text, output=text)) for g in GATED.gates)
    return replace(
        FULL, fp32=ModelFile(text, 10), quantized=ModelFile(text, 10), mode=text, target=text, version=text,
        coverage=(CoverageRow(text, 1, {"float": 1}, (ReasonCount(reason, 1),)), CoverageRow(text, 1, {"int8": 1})),
        skips=(Skip(text, text, reason),), comparison=comparison, gates=gates, warnings=(text,),
        regions=(region,), trials=trials, chosen=text, explained=(Explained(text, text, "int8", text, region),),
        audit=Audit(1, (Deviation(text, text, text, (text,), text),), (text,)),
    )  # fmt: skip


def _timings() -> st.SearchStrategy[Timing]:
    ratios = st.builds(Ratio, st.floats(), st.floats(), st.floats())
    others = st.dictionaries(st.text(), ratios).map(lambda d: {"original": Ratio(2.0, 1.5, 2.5), **d})
    return others.flatmap(
        lambda speedup: st.builds(
            Timing,
            st.integers(0, 99),
            st.integers(0, 99),
            st.just(dict.fromkeys((*speedup, "quantized"), 1.5)),
            st.just(speedup),
        )
    )


_SHARE = st.floats(0, 1) | st.just(math.nan)
_KINDS = [*(form.value for form in Form), "stored-int8", FLOAT]


def anything(kind: Any) -> st.SearchStrategy[Any]:
    """Values of the type of a field; where a reader limits them (a command, a speed), values within the limits."""
    if kind is Timing:
        return _timings()
    if is_dataclass(kind):
        assert isinstance(kind, type)
        made = {name: anything(k) for name, k in kinds_of(kind).items()}
        if kind is Report:
            made |= {"command": st.sampled_from(COMMANDS), "chosen": st.just("")}
        elif kind is Trial:
            made |= {"speed": st.floats(0.01, 100), "speedup": st.floats(0.01, 100)}
        elif kind is Explained:
            made["kind"] = st.sampled_from(["", *_KINDS])
        elif kind is ModelFile:
            made["bytes"] = st.integers(1, 2**40)
        elif kind is CoverageRow:
            made["counts"] = st.dictionaries(st.sampled_from(_KINDS), st.integers(0, 9))
        elif kind is OutputMetrics:
            made |= {
                "top1": _SHARE,
                "top5": _SHARE,
                "unchanged": _SHARE,
                "task": st.sampled_from(["", *TASKS]),
            }
        return st.builds(kind, **made)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(list(kind))
    if origin is types.UnionType:
        return st.none() | anything(next(a for a in arguments if a is not types.NoneType))
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(anything(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(anything, arguments))
    if origin in (dict, Mapping):
        return st.dictionaries(anything(arguments[0]), anything(arguments[1]), max_size=3)
    simple = {float: st.floats(), int: st.integers(0, 2**53), bool: st.booleans(), str: st.text(max_size=5)}
    return simple[kind]


ANY_REPORT = anything(Report)
