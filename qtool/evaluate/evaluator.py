"""The evaluator: the only place that opens sessions to judge candidates. It reads only the select set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qtool.data.budget import Budget
from qtool.data.samples import Part, Samples, evenly, synthetic
from qtool.errors import ModelError, RuntimeFailure
from qtool.evaluate.cached_outputs import CachedOutputs
from qtool.evaluate.compare import Comparison, compare
from qtool.evaluate.criteria import Criteria
from qtool.evaluate.float_io import open_original, with_float_io
from qtool.evaluate.latency import LIMITS, Race, Ratio, SettledSpeeds, race_models, settle
from qtool.evaluate.sensitivity import SAMPLES, sensitivity
from qtool.evaluate.signatures import noise_signatures, structure
from qtool.evaluate.worker_outputs import CANDIDATE, held, outputs_of, replayed
from qtool.graph.for_session import model_for_session
from qtool.graph.parcel import Parcel
from qtool.graph.save import LARGE_BYTES, file_size, tensor_bytes
from qtool.graph.shelf import IN_MEMORY
from qtool.options import Progress
from qtool.plan.candidate import Candidate
from qtool.plan.predict import TensorNoise, keys_of
from qtool.plan.prepared import PreparedModel
from qtool.plan.serial import digest
from qtool.rewrite.write import written
from qtool.runtime.pool import Pool, all_results
from qtool.runtime.session import Model, Session
from qtool.tables.efforts import EFFORTS, Effort
from qtool.tables.runtimes import Tells

# Samples that show whether the runtime's optimizations change the outputs.
_FEW = 4
ORIGINAL, PREPARED = "original", "prepared"
"""The names in a race of the two FP32 models: as given, and optimized."""
_FILES = 8  # candidates whose files stay: those of a race are compared after it
# The part of the budget that one measurement of tensors may spend.
_PART = 0.12


@dataclass(frozen=True)
class Gain:
    """A step of recovery and its effect.

    Args:
        name: a row of tables/recoveries.py.
        before, after: SQNR of the worst output in dB, on the select set.
        seconds: its time.
        kept: it raised the SQNR and was kept.
        before_placement: it was tried on the all-int8 candidate, before placement.
        failed: the error that ended it; '' for none.
        applied: the result contains it.
        peak_bytes: the most memory that the process had taken when the step ended.
    """

    name: str
    before: float
    after: float
    seconds: float
    kept: bool
    before_placement: bool = False
    failed: str = ""
    applied: bool = False
    peak_bytes: int = 0


@dataclass(frozen=True)
class Speed:
    """The speed of a candidate against optimized FP32.

    Args:
        measured: the ratio of their times.
        decided: the ratio to decide by: 1 where the difference is within noise, the cost table's where noise
            hides the order.
        unreliable: the cost table decided.
    """

    measured: Ratio
    decided: float
    unreliable: bool


Predict = Callable[[Candidate], float]
"""Returns the speed of a candidate against optimized FP32, by the cost table."""


class Evaluator:
    """Measures candidates on the select set.

    Args:
        model: the model of all candidates.
        criteria: the acceptance criteria.
        progress: called with the stage, the steps done and the steps in all.
        keep: called with each candidate that is better than the ones before it, for a checkpoint.
        pool: of workers that candidates and tensors are divided among; None: this process runs all. Times are
            measured here in any case.
    """

    def __init__(
        self,
        model: PreparedModel,
        criteria: Criteria,
        progress: Progress,
        keep: Callable[[Candidate], None] = lambda candidate: None,
        pool: Pool | None = None,
    ) -> None:
        self.model = model
        self.criteria = criteria
        self.progress = progress
        self.keep = keep
        self._pool = pool
        self.log: list[Gain] = []
        self.notes: list[str] = []  # what acceptance found, for the report
        self.left_out: list[str] = []  # the steps that the budget did not allow
        self.unreliable = False  # whether the cost table had to decide for noisy timings
        self._float = CachedOutputs(model.source.name, self._open_original)
        self._comparisons: dict[tuple[str, int, bool], Comparison] = {}
        self._sizes: dict[str, int] = {}
        self._files: dict[str, tuple[bytes | Path, ExitStack]] = {}  # of the last candidates that were opened
        self._speeds: dict[str, Speed] = {}
        self.preparation: Ratio | None = None  # the speed of optimized FP32 against the original
        self._noise: dict[str, NDArray[np.float64] | None] = {}  # signature of a tensor -> its noise
        self._signal: TensorNoise | None = None  # the first measurement, whose signal all noise is scaled to

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._float.close()
        self._drop_files(0)

    @property
    def select(self) -> Samples | None:
        """The samples that choices are made on; None where there are none, or only random ones."""
        samples = self.model.samples.select
        return None if synthetic(samples) else samples

    @property
    def times(self) -> bool:
        """Whether candidates can be timed, which random samples suffice for."""
        return self.model.samples.select is not None and self.model.scheme.timed is not Tells.OUTPUTS

    @property
    def statistics(self) -> Samples | None:
        """The samples for the statistics of recovery: the calibrate set.

        With ranges from a file there is none, and the select set serves.
        """
        samples = self.model.samples
        if samples.calibrate is None and self.model.options.ranges is not None:
            return self.select
        return None if synthetic(samples.calibrate) else samples.calibrate

    @property
    def budget(self) -> Budget:
        """The cost of all choices, and its limits."""
        return self.model.budget

    @property
    def effort(self) -> Effort:
        """The row of --effort."""
        return EFFORTS[self.model.options.effort]

    def affords(self, step: str, inferences: int, *, last: bool = False) -> bool:
        """Return whether the budget allows a step; if not, the report names it.

        Args:
            step: its name.
            inferences: about as many as it takes.
            last: it is one of the last steps, which may use the budget's reserve.
        """
        able = self.budget.affords(inferences, last=last)
        if not able and step not in self.left_out:
            self.left_out.append(step)
        return able

    def error(self, candidate: Candidate, most: int | None = None, *, optimize: bool = True) -> Comparison:
        """Compare a candidate with FP32 on the select set.

        Args:
            candidate: any.
            most: the most samples to run; None: the effort's number.
            optimize: run it with the runtime's graph optimizations.

        Raises:
            ValueError: there is no select set.
            RuntimeFailure: the runtime fails on a sample.
        """
        samples = self._part(self.effort.judged if most is None else most)
        key = digest(candidate.plan), len(samples), optimize
        if key not in self._comparisons:
            session = Session(
                self._loadable(candidate),
                threads=self.model.threads,
                name=CANDIDATE,
                runtime=candidate.runtime,
                optimize=optimize,
            )
            self._comparisons[key] = compare(
                self._float, with_float_io(session), samples, self.criteria.measures
            )
            self._float.release()
            self._drop_files()
        return self._comparisons[key]

    def compare_all(self, candidates: Collection[Candidate]) -> None:
        """Compare candidates at the same time, where there are workers: `error` then has the results."""
        measures = self.criteria.measures
        if self._pool is None or measures.stepwise:
            return
        part = self._part(self.effort.judged)
        keys = {digest(c.plan): c for c in candidates}
        missing = {k: c for k, c in keys.items() if (k, len(part), True) not in self._comparisons}
        if len(missing) < 2:
            return
        samples = held(part)  # which counts them once
        shared = self._pool.share(tuple(samples.read()))
        calls = [
            (
                Parcel.of(self._loadable(candidate), local=self._pool.local),
                shared,
                samples.name,
                self.model.threads,
                candidate.runtime,
            )
            for candidate in missing.values()
        ]
        recorded = all_results(
            self._pool,
            outputs_of,
            calls,
            lambda done, total: self.progress("candidates", done // len(part), len(calls)),
        )
        self.budget.add((len(missing) - 1) * len(part))
        for key, outputs in zip(missing, recorded, strict=True):
            comparison = compare(self._float, replayed(outputs), samples, measures)
            self._comparisons[key, len(part), True] = comparison
        self._float.release()
        self._drop_files()

    def sqnr_of_few(self, candidate: Candidate, optimize: bool) -> float | None:
        """Return the SQNR in dB on a few samples; None without a select set, and where it does not run so."""
        if self.select is None:
            return None
        try:
            return self.error(candidate, _FEW, optimize=optimize).sqnr
        except (ModelError, RuntimeFailure):
            return None

    def errors_of(
        self,
        candidate: Candidate,
        *others: Candidate,
        keys: Collection[str] | None = None,
        most: int = SAMPLES,
        part: float = _PART,
    ) -> TensorNoise:
        """Return the error at the outputs of each tensor that candidates quantize, alone.

        A tensor that was measured with the same integers is not measured again.

        Args:
            candidate: any.
            others: of the same model; of a tensor that several quantize in the same way, the first one's
                scales count.
            keys: the tensors, as plan/predict.py names them; None: all.
            most: samples to run.
            part: of the budget that may be spent.
        """
        plans = [candidate.plan, *(other.plan for other in others)]
        wanted = dict.fromkeys(k for plan in plans for k in keys_of(plan) if keys is None or k in keys)
        signatures: dict[str, str] = {}
        for plan in reversed(plans):
            signatures |= noise_signatures(plan, candidate.model)
        missing = [key for key in wanted if signatures[key] not in self._noise]
        if missing:
            budget = self.budget
            errors = sensitivity(
                candidate.model.model,
                plans,
                self._part(),
                self.model.threads,
                lambda done, total: self.progress("sensitivity", done, total),
                keys=missing,
                most=most,
                passes=budget.share(part),
                pool=self._pool,
            )
            budget.add(errors.passes - errors.samples)  # reading the samples has counted as one
            if errors.outputs:
                self._signal = self._signal or replace(errors, noise={})
                errors = self._signal.joined(errors)
            # Values inside an If or Loop can't be measured: None.
            self._noise |= {signatures[key]: errors.noise.get(key) for key in missing}
        signal = self._signal or TensorNoise((), np.zeros(0), {}, 0, 0)
        measured = {key: noise for key in wanted if (noise := self._noise[signatures[key]]) is not None}
        return replace(signal, noise=measured)

    def race(self, candidates: Mapping[str, Candidate], predicted: Predict) -> tuple[Race, SettledSpeeds]:
        """Time candidates and optimized FP32 side by side; return the times and the speeds to decide by.

        The first race times the original model as well: `speedup` needs that once.

        Args:
            candidates: by name, other than ORIGINAL and PREPARED.
            predicted: the speed of a candidate by the cost table, used where noise hides the order.
        """
        self.progress("race", 0, 0)
        with ExitStack() as stack:
            models: dict[str, Path | bytes] = {
                PREPARED: stack.enter_context(model_for_session(self.model.model, in_file=True))
            }
            if self.preparation is None:
                models[ORIGINAL] = self.model.source.loadable
            models |= {name: self._loadable(candidate) for name, candidate in candidates.items()}
            runtimes = {PREPARED: self.model.runtime} | {n: c.runtime for n, c in candidates.items()}
            stack.enter_context(self.budget.timed())
            limits = LIMITS.within(self.budget.seconds_left)
            race = race_models(
                models, self.model.timing_samples, self.model.threads, runtimes=runtimes, limits=limits
            )

        self._drop_files()
        if ORIGINAL in models:
            self.preparation = race.ratio(PREPARED, ORIGINAL)

        def settled(names: Collection[str]) -> SettledSpeeds:
            part = Race(race.threads, {n: race.seconds[n] for n in (PREPARED, *names)})
            speeds = settle(part)
            if not speeds.unreliable:
                return speeds
            return settle(part, {PREPARED: 1.0} | {n: predicted(candidates[n]) for n in names})

        for name, candidate in candidates.items():
            pair = settled([name])
            speed = Speed(race.ratio(name, PREPARED), pair.ratio(name, PREPARED), pair.unreliable)
            self._speeds[structure(candidate.plan)] = speed
        speeds = settled(candidates)
        self.unreliable |= speeds.unreliable
        return race, speeds

    def speedup(self, race: Race, name: str) -> Ratio:
        """Return the speed of a model of a race against the original, which the first race timed."""
        ratio = race.ratio(name, PREPARED)
        return ratio if self.preparation is None else ratio.times(self.preparation)

    def speed(self, candidate: Candidate, predicted: Predict) -> Speed:
        """Return the speed of a candidate against optimized FP32, measured once for each graph structure."""
        key = structure(candidate.plan)
        if key not in self._speeds:
            self.race({"": candidate}, predicted)
        self.unreliable |= self._speeds[key].unreliable
        return self._speeds[key]

    def size(self, candidate: Candidate) -> int:
        """Return the bytes of a candidate's file."""
        key = digest(candidate.plan)
        if key not in self._sizes:
            self._sizes[key] = file_size(written(candidate.model.model, candidate.plan))
        return self._sizes[key]

    def _loadable(self, candidate: Candidate) -> bytes | Path:
        """Return the file of a candidate, which stays for a while: it is raced, compared and measured."""
        key = digest(candidate.plan)
        if key not in self._files:
            model = written(candidate.model.model, candidate.plan)
            if tensor_bytes(model) <= IN_MEMORY:
                self._sizes[key] = file_size(model)
            stack = ExitStack()
            self._files[key] = stack.enter_context(model_for_session(model, in_file=True)), stack
        return self._files[key][0]

    def _drop_files(self, left: int = _FILES) -> None:
        """Remove the oldest files of candidates; of large models all."""
        left = 0 if tensor_bytes(self.model.model) > LARGE_BYTES else left
        for key in [*self._files][: max(len(self._files) - left, 0)]:
            self._files.pop(key)[1].close()

    def logged(self, chosen: Candidate) -> tuple[Gain, ...]:
        """Return the recovery log, with the steps that the chosen candidate contains marked as applied."""
        return tuple(replace(g, applied=i in chosen.steps) for i, g in enumerate(self.log))

    def _part(self, most: int | None = None) -> Samples:
        samples = self.select
        if samples is None:
            raise ValueError("there is no select set")
        return samples if most is None else Part(samples, evenly(len(samples), most), samples.name)

    def _open_original(self) -> Model:
        return open_original(self.model)
