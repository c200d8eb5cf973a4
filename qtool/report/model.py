"""What quantize and compare found, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from qtool.plan.model import Skip
from qtool.validate.compare import Comparison
from qtool.validate.gates import GateResult
from qtool.validate.latency import Race

SCHEMA = "qtool.report/1"


@dataclass(frozen=True)
class ModelFile:
    """A model on disk (or in memory: path is then 'model')."""

    path: str
    bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class CoverageRow:
    """What became of the nodes of one op type.

    Args:
        op: the op type, with its domain when that is not the standard one.
        total: nodes of it that compute floats.
        int8: computed in int8, with scales from calibration.
        dynamic: computed in int8, with activations quantized at run time.
        stored: computed in float, with weights stored as int8.
        floats: computed in float, weights too.
        reasons: why the last two are not in int8 -> how many nodes.
    """

    op: str
    total: int
    int8: int
    dynamic: int
    stored: int
    floats: int
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """The result of one command; None or empty where a command has no such part.

    Args:
        command: quantize or compare.
        version: of qtool.
        fp32, quantized: the two models.
        mode, target: what was asked for.
        prepared: what preparation did, one line a pass.
        coverage, skips: what became of the nodes, in total and one by one.
        comparison: fidelity on `comparison.data`.
        race: latency, with the models 'original', 'prepared' (quantize only) and 'quantized'.
        gates: what was asked to fail on, judged.
        warnings: what a user should know before shipping.
        plan_sha256: the plan that gives these bytes again.
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
    race: Race | None = None
    gates: tuple[GateResult, ...] = ()
    warnings: tuple[str, ...] = ()
    plan_sha256: str = ""

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
        return self.race.speedup("quantized", "original").median if self.race else None

    @property
    def quantized_nodes(self) -> int:
        """Nodes that compute in int8."""
        return sum(r.int8 + r.dynamic for r in self.coverage)
