"""The options of quantize, tune and compare in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import onnx

from qtool.calibration.ranges_file import Calibration
from qtool.data.open import Data
from qtool.data.reading import Reading
from qtool.evaluate.judging import GateName, Judging
from qtool.plan.model import Plan
from qtool.plan.scheme import Choices
from qtool.tables.efforts import BALANCED
from qtool.tables.judging import USUAL
from qtool.tables.modes import ModeName
from qtool.tables.recoveries import AUTO as RECOVER_AUTO
from qtool.tables.targets import MEASURED, TargetName

# --calib none: no samples, rough ranges.
NO_SAMPLES = "none"

ModelLike = str | Path | onnx.ModelProto
Progress = Callable[[str, int, int], None]
"""Called with the stage, and how much of how much of it is done."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress: the default."""


@dataclass(frozen=True, kw_only=True)
class Options(Choices, Judging):
    """The options of quantize and tune. Those of types and forms (bits, block, io ..) are in plan/scheme.py,
    measures and gates (labels, fail_if ..) in evaluate/judging.py. A single string
    where a list is expected is a list of one.

    Args:
        mode, target: names of rows in tables/modes.py and tables/targets.py; target 'auto': the row that fits
            this CPU; 'best', or several separated by commas: raced against each other.
        runtime: a row of tables/runtimes.py in which plans are raced and judged, and its precision, such as
            'openvino:bf16'; '': the target's own.
        calib: samples that set the ranges: a source that tables/sources.py knows, or an object that
            data/iterables.py takes; 'none': ranges are derived from the model alone.
        calib_format, data_format: the kind of `calib` and `data`, where it can't be recognized.
        reading: how to read samples.
        ranges: an earlier calibration, or its file; nothing is calibrated then.
        input_range: with calib 'none', '[INPUT=]LOW,HIGH' of the model's float inputs.
        data: samples to judge on; None: every fourth calibration sample, which then sets no range.
        exclude, include: node names, globs or op:Type that stay in float, or are quantized regardless.
        sets: 'PATTERN=int8|int4|int2|fp16|fp32', for nodes that should differ from the mode; the last wins.
        plan: a resolved plan to replay; nothing is calibrated or timed then.
        resume: continue the search from `plan` instead of replaying it.
        require_quantized: fail when nothing is quantized.
        timing: 'measured': nodes are timed here; 'table': their times are looked up, and no time decides.
        costs: the table, from `qtool profile`; None: the target's own.
        min_sqnr: dB below which the result fails; what is needed for it goes back to float. None: what the
            precision usually holds, where there are samples to judge by.
        min_speedup: against the original model, below which the result fails.
        max_size: bytes of the model above which it fails.
        target_size, target_bits: weight-only, static: bytes of the model, or bits a weight on the mean,
            which sensitivities are to make the best of; 0: no such aim.
        keep_failed: write the output even if a gate failed.
        recover: recovery steps: 'auto', 'none', or names of tables/recoveries.py, separated by commas. They
            need samples.
        effort: a row of tables/efforts.py.
        time_budget: seconds after which nothing new is tried, and the best result so far is written; 0: no
            limit. The result then depends on the machine.
        checkpoint: a file that holds the best plan so far, until the result is in place; the finished weights
            of a side file are then beside the output, in OUTPUT.part.
        jobs: workers that candidates and tensors are divided among, and threads that read and write weights
            in side files; 0: this process with one thread for each usable core, or with `ray` the CPUs of
            the cluster.
        ray: 'auto' or the address of a Ray cluster, for workers there; '': processes here.
        explain: node names, globs or op:Type of nodes to explain in the report.
        threads: of the runtime; 0: its default, and one thread for timing.
        force: replace an existing output.
        allow_float: leave in float what is not faster, though options name what is quantized, or how.
    """

    gate: GateName = USUAL
    mode: ModeName = "static"
    target: TargetName = "auto"
    runtime: str = ""
    calib: Data | None = None
    calib_format: str = ""
    ranges: Calibration | str | Path | None = None
    input_range: Sequence[str] = ()
    data: Data | None = None
    data_format: str = ""
    reading: Reading = field(default_factory=Reading)
    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    sets: Sequence[str] = ()
    plan: Plan | None = None
    resume: bool = False
    require_quantized: bool = False
    timing: str = MEASURED
    costs: str | Path | None = None
    min_sqnr: float | None = None
    min_speedup: float = 0.0
    max_size: int = 0
    target_size: int = 0
    target_bits: float = 0.0
    keep_failed: bool = False
    recover: str = RECOVER_AUTO
    effort: Literal["fast", "balanced", "best"] = BALANCED
    time_budget: float = 0.0
    checkpoint: str | Path | None = None
    jobs: int = 0
    ray: str = ""
    explain: Sequence[str] = ()
    threads: int = 0
    force: bool = False
    allow_float: bool = False

    @property
    def requests(self) -> tuple[str, ...]:
        """The options that name what is quantized, or how: that is done even where it is slower."""
        if self.allow_float:
            return ()
        forms = (name.replace("_", "-") for name in self.choices.made() if name != "requantize")
        sets = [
            text for text in self.sets if not text.endswith("=fp32")
        ]  # float is no request, as in exclude
        patterns = {"include": self.include, "set": sets}
        return tuple(f"--{name}" for name in (*forms, *(name for name, texts in patterns.items() if texts)))

    @property
    def estimates(self) -> bool:
        """Whether ranges are derived from the model alone: calib is 'none'."""
        return isinstance(self.calib, str) and self.calib == NO_SAMPLES

    @property
    def choices(self) -> Choices:
        """The choices of types and forms alone."""
        return Choices(**{f.name: getattr(self, f.name) for f in fields(Choices)})


@dataclass(frozen=True, kw_only=True)
class Comparing(Judging):
    """The options of compare; measures and gates are in evaluate/judging.py.

    Args:
        data_format: the kind of the samples, where it can't be recognized.
        reading: how to read them.
        speed: time both, interleaved; a gate on speedup does so too.
        runtime: that runs the quantized model, as for quantize; '': onnxruntime. FP32 runs in onnxruntime.
        threads: of the runtime; 0: its default, and one thread for timing.
        save_ref: a file for the FP32 outputs, for comparisons without that model.
        force: replace an existing file there.
    """

    data_format: str = ""
    reading: Reading = field(default_factory=Reading)
    speed: bool = False
    runtime: str = ""
    threads: int = 0
    save_ref: str | Path | None = None
    force: bool = False
