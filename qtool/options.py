"""What a caller of the pipeline chooses, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import onnx

from qtool.calibrate.ranges import Ranges
from qtool.calibrate.serial import Calibration
from qtool.data.open import Data
from qtool.data.reading import Reading
from qtool.plan.model import Plan
from qtool.plan.scheme import Choices
from qtool.report.model import Report

ModelLike = str | Path | onnx.ModelProto
Progress = Callable[[str, int, int], None]
"""Called with the stage, and how much of how much of it is done."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Options(Choices):
    """How to quantize. The choices of types and forms (bits, block, io ..) are those of plan/scheme.py.

    Args:
        mode, target: names of rows in tables/modes.py and tables/targets.py.
        calib: samples that set the ranges: a source that tables/sources.py knows, or an iterable of dicts;
            'none': ranges are estimated from the model alone.
        calib_format, data_format: the kind of `calib` and `data`, where they don't show it.
        reading: how samples are to be read.
        ranges: what an earlier calibration saw, or the file that holds it; nothing is calibrated then.
        input_range: with calib 'none', '[INPUT=]LOW,HIGH' of the model's float inputs.
        data: samples to judge on; None: every fourth calibration sample, which then sets no range.
        labels: a JSON file of sample name -> class, for true accuracy.
        exclude, include: node names, globs or op:Type that stay in float, or are quantized regardless.
        sets: 'PATTERN=int8|int4|fp16|fp32', for nodes that should differ from the mode; the last wins.
        plan: a resolved plan to replay; nothing is calibrated then, and no speed decides.
        fail_if: gates, such as 'sqnr<20'.
        require_quantized: fail when nothing is quantized.
        threads: of the runtime; 0 leaves the choice to it, except for timing, which then uses one.
        force: replace an existing output.
    """

    mode: str = "static"
    target: str = "cpu"
    calib: Data | None = None
    calib_format: str = ""
    ranges: Calibration | str | Path | None = None
    input_range: Sequence[str] = ()
    data: Data | None = None
    data_format: str = ""
    reading: Reading = field(default_factory=Reading)
    labels: str | Path | None = None
    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    sets: Sequence[str] = ()
    plan: Plan | None = None
    fail_if: Sequence[str] = ()
    require_quantized: bool = False
    threads: int = 0
    force: bool = False

    @property
    def choices(self) -> Choices:
        """The choices of types and forms alone."""
        return Choices(**{f.name: getattr(self, f.name) for f in fields(Choices)})


@dataclass(frozen=True)
class Result:
    """What quantize returns.

    Args:
        report: what was done and how well it went.
        plan: what would do it again; its sites have scales unless it was a dry run.
        ranges: the calibration behind it.
    """

    report: Report
    plan: Plan
    ranges: Ranges = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every gate held; only then is the output in place."""
        return not self.report.failed
