"""The report of quantize, tune and compare, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qtool.calibration.ranges import Ranges
from qtool.evaluate.analysis.model import TensorValues
from qtool.evaluate.audit import Audit
from qtool.evaluate.compare import Comparison
from qtool.evaluate.evaluator import Gain
from qtool.evaluate.gates import GateResult, Verdict
from qtool.evaluate.latency import Race, Ratio
from qtool.placement.trials import Trial, pareto_front
from qtool.plan.model import Plan, RegionNote, Skip
from qtool.tables.forms import HEADINGS, Form
from qtool.tables.reasons import Reason

SCHEMA = "qtool.report/6"
COMMANDS = ("quantize", "compare", "tune")


@dataclass(frozen=True)
class ModelFile:
    """A model on disk (or in memory: path is then 'model')."""

    path: str
    bytes: int
    sha256: str = ""


# What a node is counted as when it is in no form; others are counted under their form's name.
FLOAT = "float"
_STORED = "stored-"


def stored_as(qtype: str) -> str:
    """Return the kind of float nodes whose weights are stored in a type of fewer bits."""
    return _STORED + qtype


def heading(kind: str) -> str:
    """Return the name of a kind for people."""
    if kind.startswith(_STORED):
        return f"float, stored {kind.removeprefix(_STORED)}"
    return FLOAT if kind == FLOAT else HEADINGS[Form(kind)]


@dataclass(frozen=True)
class ReasonCount:
    """A reason, without the figures of one node, and how many nodes are in float for it."""

    reason: Reason
    count: int


@dataclass(frozen=True)
class CoverageRow:
    """The outcome for the nodes of one op type.

    Args:
        op: the op type, with its domain when that is not the standard one.
        total: nodes of it that compute floats.
        counts: 'int8', 'int8-dynamic', 'nbits', 'float16': how many compute so; 'stored-int8' and the
            like: in float, with weights in fewer bits in the file; 'float': in float, weights too.
        reasons: why nodes compute in float, the most frequent reason first.
    """

    op: str
    total: int
    counts: dict[str, int]
    reasons: tuple[ReasonCount, ...] = ()

    @property
    def computed(self) -> int:
        """Nodes that compute in another type than they came with."""
        return sum(self.counts.get(form.value, 0) for form in Form)

    @property
    def floats(self) -> int:
        """Nodes that are as they were."""
        return self.counts.get(FLOAT, 0)


@dataclass(frozen=True)
class Explained:
    """The explanation of one node.

    Args:
        node, op: its name and op type.
        kind: as in the counts of coverage; '' of a node that computes no floats.
        why: what decided it.
        region: what was measured of the nodes that stand or fall with it; None where nothing was.
    """

    node: str
    op: str
    kind: str
    why: str
    region: RegionNote | None = None


@dataclass(frozen=True)
class Timing:
    """The result of a race.

    Args:
        threads: that each model ran with.
        rounds: how often all models were timed.
        milliseconds: model -> median time of one inference.
        speedup: model -> its time / time of the quantized one, with the 95% interval of that median.
        preparation: time of the original / time of optimized FP32: the part of the speed that is not
            quantization; None where that was not timed.
    """

    threads: int
    rounds: int
    milliseconds: Mapping[str, float]
    speedup: Mapping[str, Ratio]
    preparation: Ratio | None = None

    @classmethod
    def of(cls, race: Race) -> Timing:
        """The medians of a race that has a model 'quantized'."""
        others = [name for name in race.seconds if name != "quantized"]
        return cls(
            race.threads,
            race.rounds,
            {name: race.milliseconds(name) for name in race.seconds},
            {name: race.ratio("quantized", name) for name in others},
            race.ratio("prepared", "original") if {"prepared", "original"} <= race.seconds.keys() else None,
        )


@dataclass(frozen=True)
class SearchCost:
    """The cost of all choices, without the verdict.

    Args:
        inferences: of the whole model, for each select sample.
        limit: the most of them that --effort allows; None: any number.
        seconds: from the preparation to the choice.
        timing_seconds: of these, for timing kernels and models.
        left_out: the steps that the limit, or --time-budget, did not allow.
    """

    inferences: float
    limit: int | None
    seconds: float
    timing_seconds: float
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Fidelity on the select set, by which the result was chosen. The verdict is on the judge set.

    Args:
        sqnr: of the worst output in dB.
        interval: of that over samples, 95%; candidates are accepted by its lower end.
        samples: how many were run.
        independent: no range was set by these samples.
        judge_independent: no choice was made by the samples of the judge set.
        cost: of all choices.
    """

    sqnr: float
    interval: tuple[float, float]
    samples: int
    independent: bool
    judge_independent: bool
    cost: SearchCost


@dataclass(frozen=True)
class ChoiceSize:
    """The bytes of the file that a mode would write, with weights of `bits` bits."""

    mode: str
    bits: int
    bytes: int


@dataclass(frozen=True)
class RacedTarget:
    """A target that was raced against others, on the select set.

    Args:
        target: its name.
        runtime: that the best plan is for, with its precision; '' where there is none.
        plan: the best plan there, by the name of its trial.
        sqnr: of that plan in dB, of the worst output; nan where there is none.
        speedup: against the original in onnxruntime; None where there is none.
        coverage: the share of the nodes that compute floats that it has in int8.
        accepted: it meets the criteria.
        chosen: it is the result.
        why: the reason that it is not; '' for the result.
    """

    target: str
    runtime: str = ""
    plan: str = ""
    sqnr: float = math.nan
    speedup: Ratio | None = None
    coverage: float = 0.0
    accepted: bool = False
    chosen: bool = False
    why: str = ""


@dataclass(frozen=True)
class Report:
    """The result of one command; None or empty where a command has no such part.

    Args:
        command: quantize, tune or compare.
        version: of qtool.
        fp32, quantized: the two models.
        mode, target: what was asked for; empty for compare.
        prepared: what preparation did, one line a pass.
        coverage, skips: what became of the nodes, in total and one by one.
        comparison: fidelity on `comparison.data`: of quantize and tune, on the judge set.
        selection: fidelity on the select set; None where nothing was chosen by samples.
        race: latency of the models 'original', 'prepared' (quantize only) and 'quantized'.
        gates: what was asked to fail on, judged.
        warnings: what a user should know before shipping.
        plan_sha256: the plan that gives these bytes again.
        weights_only: the mode quantizes weights and nothing else.
        synthetic: measured on made-up samples, which satisfy no gate.
        written: the file was put in place.
        regions: what was measured of nodes that stand or fall together, and what became of them.
        trials: the plans that were built and raced; the answer is one of them, or follows from one.
        chosen: the trial that `quantized` is; '' where it is none of them.
        recovered: what won accuracy back, or did not.
        explained: the nodes that were asked about.
        audit: the kernels that the runtime has for the file, held against the plan.
        nodes: what became of every node that computes floats, in graph order, without measurements.
        arguments: the command line, with options of the environment and of a file; empty in Python.
        runtime: in which the file was judged, with the precision of its float nodes where it has several.
        opening: the lines of Python that open the file there; () for onnxruntime.
        targets: that were raced against each other.
        sizes: of the file in each mode that needs no samples; of a dry run.
        cpu_sqnr: dB of the worst output in onnxruntime's CPU provider; `comparison` is of a simulator.
        tensors: of the int8 regions that cost most; their values as calibration saw them.
    """

    command: str
    version: str
    fp32: ModelFile
    quantized: ModelFile | None = None
    mode: str = ""
    target: str = ""
    prepared: tuple[str, ...] = ()
    coverage: tuple[CoverageRow, ...] = ()
    skips: tuple[Skip, ...] = ()
    comparison: Comparison | None = None
    selection: Selection | None = None
    race: Timing | None = None
    gates: tuple[GateResult, ...] = ()
    warnings: tuple[str, ...] = ()
    plan_sha256: str = ""
    weights_only: bool = False
    synthetic: bool = False
    written: bool = False
    regions: tuple[RegionNote, ...] = ()
    trials: tuple[Trial, ...] = ()
    chosen: str = ""
    recovered: tuple[Gain, ...] = ()
    explained: tuple[Explained, ...] = ()
    audit: Audit | None = None
    nodes: tuple[Explained, ...] = ()
    arguments: tuple[str, ...] = ()
    runtime: str = ""
    opening: tuple[str, ...] = ()
    targets: tuple[RacedTarget, ...] = ()
    cpu_sqnr: float | None = None
    sizes: tuple[ChoiceSize, ...] = ()
    tensors: tuple[TensorValues, ...] = ()

    def __repr__(self) -> str:
        from qtool.report.verdict import verdict_line

        return f"<Report of {self.command}: {verdict_line(self)}>"

    def _repr_html_(self) -> str:
        """Return the report's tables as HTML, for a notebook."""
        from qtool.report.terminal import to_html

        return to_html(self)

    def to_markdown(self) -> str:
        """Return the report as GitHub's Markdown."""
        from qtool.report.markdown import to_markdown

        return to_markdown(self)

    def save(self, path: str | Path) -> None:
        """Write the report to a file, in the format of its suffix: .html, .json, .md, .xml (JUnit) or .csv.

        Raises:
            UsageError: another suffix.
            EnvironmentFailure: the file can't be written.
        """
        from qtool.report.formats import save

        save(self, path)

    @property
    def front(self) -> tuple[str, ...]:
        """The trials that no other one beats in speed, error and size, the fastest first."""
        return tuple(t.name for t in pareto_front(self.trials))

    @property
    def failed(self) -> tuple[GateResult, ...]:
        """The gates that failed."""
        return tuple(g for g in self.gates if g.failed)

    @property
    def size_ratio(self) -> float | None:
        """Quantized bytes / FP32 bytes."""
        return self.quantized.bytes / self.fp32.bytes if self.quantized else None

    @property
    def speedup(self) -> float | None:
        """FP32 time / quantized time, against the original model."""
        return self.race.speedup["original"].median if self.race else None

    @property
    def quantized_nodes(self) -> int:
        """Nodes that compute in fewer bits; where weights are all that is quantized, those that have such."""
        return sum(r.total - r.floats if self.weights_only else r.computed for r in self.coverage)

    @property
    def verdict(self) -> Verdict:
        """Return the figures that gates judge."""
        nodes = None if self.command == "compare" else self.quantized_nodes
        return Verdict(self.comparison, self.speedup, self.size_ratio, nodes, synthetic=self.synthetic)


@dataclass(frozen=True)
class Result:
    """The result of quantize and tune.

    Args:
        report: decisions, fidelity, speed, size and gates.
        plan: replays the run; its sites have scales except after a dry run.
        ranges: the calibration of the plan.
    """

    report: Report
    plan: Plan
    ranges: Ranges = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Result {'ok' if self.ok else 'failed'}: {self.report!r}, {self.plan!r}>"

    @property
    def ok(self) -> bool:
        """Whether every gate held; only then is the output in place."""
        return not self.report.failed
