"""The plans that quantize builds, one after the other, until one holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qtool.bits import allotted
from qtool.data.samples import Source as Samples
from qtool.data.samples import synthetic
from qtool.graph.save import tensor_bytes
from qtool.job import Job
from qtool.measure.sensitivity import sensitivity
from qtool.options import Progress
from qtool.placement.explain import decibels, notes
from qtool.placement.pareto import ParetoPoint
from qtool.placing import Measured, everything, front, labelled, measured
from qtool.plan.choose import Budget, Gain, Trial, choose
from qtool.plan.half_ports import is_float32
from qtool.plan.model import Plan
from qtool.plan.predict import Errors, keys_of
from qtool.plan.repair import repaired
from qtool.plan.serial import digest
from qtool.planning import Planned, Planner
from qtool.recovering import Kept, ignored, recovered
from qtool.tables.efforts import EFFORTS, Effort
from qtool.tables.forms import Form
from qtool.tables.targets import MEASURED
from qtool.trials import tried

# Predictions are off by that much: so much more than is missing is what goes back to float to be enough for.
_MARGIN_DB = 0.5
# Where no number says how far a gate is missed.
_STEP_DB = 3.0
# Bytes of weights of a model of which several are built side by side.
_LARGEST = 1 << 30
# What bears on placement, and what shows whether candidates are to be judged with their biases corrected.
_FIRST = ("equalize", "ranges", "gptq", "bias")
_MUCH_DB = 0.5
_FORMS = frozenset({Form.INT8, Form.DYNAMIC})


@dataclass
class Search:
    """What is known of a job by now, and where to go from there.

    Args:
        job: the model, and what was asked.
        planner: makes its plans.
        samples: held-out ones; None where there are none, and nothing can be measured.
        budget: what is asked of the answer.
        progress: told how far it is.
        trials: of what was built.
        kept: told of plans that could be written, each better than those before it.
        gains: of the steps that went before placement.
        front: all that could be built, fastest first, as far as it can be predicted.
    """

    job: Job
    planner: Planner
    samples: Samples | None
    budget: Budget
    progress: Progress
    kept: Kept = ignored
    trials: tuple[Trial, ...] = ()
    gains: tuple[Gain, ...] = ()
    _known: Measured | None = None
    front: list[ParetoPoint] = field(default_factory=list)
    _errors: Errors | None = None
    _names: dict[str, str] = field(default_factory=dict)

    def first(self) -> Planned:
        """The best of what rules and measurements come to; the rules' plan where nothing can be measured."""
        options = self.job.options
        if options.target_size or options.target_bits:
            return allotted(self.job, self.planner, self.samples, self.progress)
        if self.samples is None or synthetic(self.samples) or self.obstacle() is not None:
            return self.planner.plan(self.job.wish)
        self.kept(self.planner.plan(self.job.wish))
        known = self.learned(self.samples)
        plans = {"rules": self.planner.plan(self.job.wish), "all": known.everything}
        for point in shortlist(known, self.front, self.budget, self._effort.built):
            plans[f"cut {self.front.index(point) + 1}"] = self.planner.plan(labelled(known, point))
        return self.best_of(plans, self.samples)

    def learned(self, samples: Samples) -> Measured:
        """What is to be known of the model: times, errors, and the front that they come to."""
        self._prepare(samples)
        known = self._known = measured(self.job, self.planner, samples, self.budget.floor_db, self.progress)
        self.front = front(known, self.budget.floor_db)
        return known

    def _prepare(self, samples: Samples) -> None:
        """Win back first what bears on placement: no layer is left in float for what can be mended."""
        whole = everything(self.job, self.planner)
        better, gains = recovered(whole, self.planner.calib, samples, self.progress, only=_FIRST)
        self.gains = tuple(replace(gain, first=True) for gain in gains)
        self.planner = better.maker
        self.planner.keep(better)
        self.job = replace(better.job, wish=replace(self.job.wish, bounds=better.wish.bounds))

    def _mended(self, planned: Planned) -> Planned:
        """A candidate as it will be in the end, where that changes much: with its biases corrected."""
        if not any(g.name == "bias" and g.kept and g.after - g.before > _MUCH_DB for g in self.gains):
            return planned
        return recovered(planned, self.planner.calib, self.samples, self.progress, only=["bias"])[0]

    def best_of(self, plans: Mapping[str, Planned], samples: Samples, *, small: bool = False) -> Planned:
        """The best of several plans, by what each comes to when they are run side by side.

        Args:
            plans: by name. Of the same plan under two names the later one says why it is what it is.
            samples: held-out ones.
            small: what counts is size, not speed.
        """
        plans = {name: self._mended(planned) for name, planned in plans.items()}
        self._names = {_content(planned.plan): name for name, planned in plans.items()}
        timed = self.job.options.profile == MEASURED
        named = {name: plans[name] for name in self._names.values()}
        trials = tried(self.job, named, samples, timed, self.progress, self._effort.judged)
        if (known := self._known) is not None:
            trials = tuple(replace(t, units=len(known.units_of(named[t.name].plan))) for t in trials)
        if known is not None and not timed:
            speeds = {name: known.speed_of(planned.plan) for name, planned in named.items()}
            trials = tuple(replace(t, speed=speeds[t.name], speedup=speeds[t.name]) for t in trials)
        self.trials = trials
        if small:
            trials = tuple(replace(t, speed=self.job.source.size / t.bytes) for t in trials)
        return self._noted(plans[choose(trials, self.budget).name])

    @property
    def _effort(self) -> Effort:
        return EFFORTS[self.job.options.effort]

    def name_of(self, plan: Plan) -> str:
        """The trial that a plan is; '' where it is none of them."""
        return self._names.get(_content(plan), "")

    def obstacle(self) -> tuple[str, str] | None:
        """Why placement can't be measured, and what to do about it; None where it can."""
        job, scheme = self.job, self.job.scheme
        if not self._effort.measures:
            return f"--effort {job.options.effort} measures nothing: it goes by the rules", "leave it out"
        if not scheme.target.onnxruntime:
            why = f"--target {scheme.target.name} is for another runtime, and plans are timed in onnxruntime"
            return why, "--target cpu"
        if scheme.asked or scheme.form not in _FORMS:
            return (
                "--weights, --acts, --format, --io and --prefer settle what is quantized to what",
                "leave them out; qtool quantize --plan PLAN replays what was found",
            )
        if tensor_bytes(job.prepared.model) > _LARGEST:
            return "several plans of a model of more than 1 GiB at once would not fit", ""
        if not any(is_float32(v) for v in job.prepared.model.graph.outputs):
            return "no output of the model is a tensor of floats: an error has no size here", ""
        return None

    def in_float(self, planned: Planned, reason: str) -> Planned:
        """What is left when int8 is given up: only what the user insisted on."""
        plan, wish = planned.plan, self.job.wish
        keep = {s.node: s.reason for s in plan.skips} | dict.fromkeys(plan.forms.keys() - wish.force, reason)
        return self._noted(self.planner.plan(replace(wish, keep_float=keep)))

    def truer(self, planned: Planned, sqnr: float) -> Planned | None:
        """A plan with more in float than one that misses a gate; None when there is none.

        Args:
            planned: what was built.
            sqnr: dB, what it came to on held-out samples.
        """
        if self.samples is None or synthetic(self.samples):
            return None
        errors = self._errors_of(planned)
        before = errors.sqnr(keys_of(planned.plan))
        missing = self.budget.floor_db - sqnr if sqnr < self.budget.floor_db else _STEP_DB
        aim = before + missing + _MARGIN_DB
        if (seen := self._known) is not None:
            now = seen.network.noise_of(seen.units_of(planned.plan))
            for point in self.front:
                # Less than now, or it would never end where the error is not that of quantization.
                if point.noise < now and decibels(point.noise) >= aim:
                    return self._noted(self.planner.plan(labelled(seen, point)))
        wish = repaired(self.job.view, planned.plan, planned.wish, errors, aim)
        return None if wish is None else self._noted(self.planner.plan(wish))

    def _errors_of(self, planned: Planned) -> Errors:
        """Of all that a plan quantizes; measured when it is first asked for."""
        keys = set(keys_of(planned.plan))
        known = self._errors or (self._known.errors if self._known else None)
        if known is None or not keys <= known.noise.keys():
            if self.samples is None:
                raise ValueError("no samples")
            known = sensitivity(
                self.job.prepared.model,
                [planned.plan],
                self.samples,
                self.job.options.threads,
                lambda done, total: self.progress("sensitivity", done, total),
            )
        self._errors = known
        return known

    def _noted(self, planned: Planned) -> Planned:
        if self._known is None:
            return planned
        return replace(
            planned, plan=replace(planned.plan, units=notes(self._known.network, planned.plan, self.job.view))
        )


def _content(plan: Plan) -> str:
    """A digest of all that makes the model: reasons make none of it."""
    return digest(replace(plan, skips=()))


def shortlist(known: Measured, points: list[ParetoPoint], budget: Budget, most: int) -> list[ParetoPoint]:
    """The points that are predicted to be the best, the best one first; no more than so many."""
    trials = {}
    for number, point in enumerate(points):
        speed = known.speed(point)
        trials[str(number)] = Trial(str(number), decibels(point.noise), speed, speed, 0)
    found: list[ParetoPoint] = []
    while trials and len(found) < most:
        best = choose(list(trials.values()), replace(budget, size=0))
        del trials[best.name]
        found.append(points[int(best.name)])
    return found
