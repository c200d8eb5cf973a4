"""The result of analyze, as plain data and as JSON (schema qtool.analysis/1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qtool.evaluate.analysis.model import BlockError, OutputError, RegionError, TensorError
from qtool.report.model import ModelFile
from qtool.serialize.json_format import JsonFormat


@dataclass(frozen=True)
class Advice:
    """One change, with its predicted effect.

    Args:
        options: of `qtool quantize`: `--exclude conv1`.
        command: the whole command, to be pasted.
        why: the reason.
        sqnr: predicted SQNR of the worst output, in dB.
        gain: `sqnr` less that of the analyzed model.
        measured: SQNR of the model that the command makes, on the same samples; nan where it was not built.
    """

    options: str
    command: str
    why: str
    sqnr: float
    gain: float
    measured: float


@dataclass(frozen=True)
class Cost:
    """The number of inferences: `runs` over all samples, of at most `limit`."""

    samples: int
    runs: float
    limit: int


@dataclass(frozen=True)
class Analysis:
    """The error of a quantized model by tensor and by region, and remedies.

    Args:
        version: of qtool.
        fp32: the original.
        quantized: None where the model is the one that `made_by` would make.
        made_by: the tool that made the quantized model, or the command that makes it.
        form: 'qdq', 'qoperator', 'dynamic', ..
        data: the samples.
        sqnr: SQNR of the worst output in dB: of the model that ran, or else simulated.
        outputs: the error of each output.
        regions: the regions with a fault of a scale first, then by local error, the largest first.
        tensors: in the same order.
        blocks: by share, the largest first.
        advice: by gain, the largest first.
        cost: what it took.
        warnings: what limits the result.
        runtime: that ran the quantized model, with its precision; '' where it was simulated alone.
        arguments: the command line, with options of the environment and of a file; empty in Python.
    """

    version: str
    fp32: ModelFile
    quantized: ModelFile | None
    made_by: str
    form: str
    data: str
    sqnr: float
    outputs: tuple[OutputError, ...]
    regions: tuple[RegionError, ...]
    tensors: tuple[TensorError, ...]
    blocks: tuple[BlockError, ...]
    advice: tuple[Advice, ...]
    cost: Cost
    warnings: tuple[str, ...] = ()
    runtime: str = ""
    arguments: tuple[str, ...] = ()

    def __repr__(self) -> str:
        worst = self.regions[0].name if self.regions else "none"
        return f"<Analysis: {self.sqnr:.1f} dB, {len(self.regions)} regions, worst: {worst}>"

    @property
    def problems(self) -> tuple[TensorError, ...]:
        """The tensors with a fault of their scale."""
        return tuple(t for t in self.tensors if t.problem)

    def save(self, path: str | Path) -> None:
        """Write the analysis to a file, in the format of its suffix.

        Raises:
            UsageError: a suffix that no format of an analysis has.
            EnvironmentFailure: the file can't be written.
        """
        from qtool.report.formats import ANALYSIS_FORMATS, save

        save(self, path, ANALYSIS_FORMATS)


ANALYSIS = JsonFormat(
    Analysis,
    "qtool.analysis/1",
    "analysis",
    hint="qtool analyze --json makes one",
    levels=3,
    derived={Analysis: {"problems": lambda a: tuple(t.name for t in a.problems)}},
)


def to_json(analysis: Analysis) -> str:
    """Return an analysis as one JSON document."""
    return ANALYSIS.to_json(analysis)
