"""Several targets in one run: the best plan of each, raced against each other in their own runtimes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from qtool.errors import EnvironmentFailure, ModelError, QtoolError, RuntimeFailure, UsageError
from qtool.evaluate.evaluator import ORIGINAL, Evaluator
from qtool.evaluate.latency import Race, SettledSpeeds, race_models, settle
from qtool.graph.for_session import model_for_session
from qtool.options import Options
from qtool.placement.place import Placement
from qtool.placement.trials import Trial, choose
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.plan.prepared import PreparedModel
from qtool.report.model import RacedTarget, Report
from qtool.rewrite.write import written
from qtool.runtime.cpu import fitting_target
from qtool.runtime.providers import as_made_for, check_runtime
from qtool.tables.runtimes import RUNTIMES, Tells
from qtool.tables.targets import BEST, MEASURED, TARGETS, TargetName


@dataclass(frozen=True)
class Outcome:
    """The outcome of the search on one target.

    Args:
        evaluator: of the candidates.
        placement: the candidates that were built there.
        chosen: the best one.
    """

    evaluator: Evaluator
    placement: Placement
    chosen: Candidate

    @property
    def target(self) -> str:
        """The name of the target."""
        return self.chosen.model.scheme.target.name

    @property
    def trial(self) -> str:
        """The name of the trial with the chosen candidate's nodes in int8; '' for none."""
        return self.placement.name_of(self.chosen)


def targets_of(options: Options) -> tuple[list[TargetName], list[RacedTarget]]:
    """Return the targets to search on, and those of `best` whose runtimes do not open here.

    Raises:
        UsageError: several, and nothing to race them by.
        EnvironmentFailure: the runtime of a target that the user named does not open here.
    """
    names, left_out = [name.strip() for name in options.target.split(",")], list[RacedTarget]()
    if options.plan is not None and not options.resume:
        names = [options.plan.target]
    if BEST in names:
        fitting = [fitting_target(name) for name, row in RUNTIMES.items() if row.tells is not Tells.OUTPUTS]
        names = [name for name in fitting if name]
    for name in list(names):
        runtime = TARGETS[name].runtime if name in TARGETS else ""
        try:
            check_runtime(options.runtime or runtime or next(iter(RUNTIMES)))
        except EnvironmentFailure as error:
            if options.target != BEST:
                raise
            names.remove(name)
            left_out.append(RacedTarget(name, why=f"{error.message} ({error.hint})"))
    names = list(dict.fromkeys(names))
    if len(names) > 1 and options.timing != MEASURED:
        raise UsageError("several targets are raced, and --timing table times nothing", "name one target")
    if len(names) > 1 and options.runtime:
        raise UsageError("several targets are raced, each in its own runtime", "leave out --runtime")
    return cast(list[TargetName], names), left_out


def check_racing(model: PreparedModel) -> None:
    """Refuse to race targets without samples.

    Raises:
        UsageError: there are none.
    """
    if model.samples.select is None:
        raise UsageError("several targets are raced on samples, and there are none", "add --calib SRC")


def search_targets(
    names: Sequence[TargetName],
    left_out: Sequence[RacedTarget],
    search: Callable[[TargetName], Outcome],
) -> tuple[Outcome, tuple[RacedTarget, ...], tuple[Trial, ...]]:
    """Search on every target, and return the best outcome, the targets, and their trials; of one, that one.

    Raises:
        QtoolError: the search failed on all of them.
    """
    outcomes, failed = list[Outcome](), dict[str, QtoolError]()
    for name in names:
        try:
            outcomes.append(search(name))
        except (ModelError, RuntimeFailure) as error:
            failed[name] = error
    if not outcomes:
        raise next(iter(failed.values()))
    if len(names) == 1 and not left_out:
        return outcomes[0], (), ()
    return _best_outcome(outcomes, failed, left_out)


def _best_outcome(
    outcomes: Sequence[Outcome], failed: Mapping[str, QtoolError], left_out: Sequence[RacedTarget]
) -> tuple[Outcome, tuple[RacedTarget, ...], tuple[Trial, ...]]:
    """Race the chosen candidates of all targets in one race, and choose by the criteria.

    Args:
        outcomes: at least one.
        failed: target -> the error that ended its search.
        left_out: targets whose runtimes do not open here.

    Returns:
        The best outcome, the targets, and the trials of all targets, against the original.
    """
    if not outcomes[0].evaluator.times:  # one, as check_racing says
        alone = outcomes[0]
        return alone, (_alone(alone), *_refused(failed), *left_out), ()
    race, speeds = _race(outcomes)
    finals = {o.target: _final(o, race, speeds) for o in outcomes}
    best = choose(list(finals.values()), outcomes[0].evaluator.criteria).name
    raced = [
        RacedTarget(
            o.target,
            as_made_for(o.chosen.runtime, {}),
            o.trial,
            finals[o.target].sqnr,
            race.ratio(o.target, ORIGINAL),
            _coverage(o.chosen.plan),
            finals[o.target].holds(o.evaluator.criteria),
            o.target == best,
            "" if o.target == best else _why(finals[o.target], finals[best]),
        )
        for o in outcomes
    ]
    trials = [trial for o in outcomes for trial in _trials(o, finals[o.target])]
    chosen = next(o for o in outcomes if o.target == best)
    return chosen, (*raced, *_refused(failed), *left_out), tuple(trials)


def with_targets(report: Report, targets: tuple[RacedTarget, ...], trials: tuple[Trial, ...]) -> Report:
    """Return the report of the best outcome with all targets that were raced, and their trials."""
    if not trials:
        return replace(report, targets=targets)
    chosen = next(t for t in targets if t.chosen)
    return replace(report, targets=targets, trials=trials, chosen=_named(chosen.target, chosen.plan))


def _named(target: str, plan: str) -> str:
    """The name of a plan among those of several targets."""
    return f"{target}: {plan}" if plan else target


def _alone(outcome: Outcome) -> RacedTarget:
    """The only target, where nothing can be timed."""
    runtime = as_made_for(outcome.chosen.runtime, {})
    coverage = _coverage(outcome.chosen.plan)
    return RacedTarget(outcome.target, runtime, outcome.trial, coverage=coverage, chosen=True)


def _coverage(plan: Plan) -> float:
    """The share of nodes that compute floats that are quantized."""
    return len(plan.forms) / max(len(plan.forms) + len(plan.skips), 1)


def _refused(failed: Mapping[str, QtoolError]) -> list[RacedTarget]:
    """The targets whose search ended in an error."""
    return [RacedTarget(name, why=error.message) for name, error in failed.items()]


def _race(outcomes: Sequence[Outcome]) -> tuple[Race, SettledSpeeds]:
    """Time the candidates and the original, each in its runtime."""
    model = outcomes[0].chosen.model
    with ExitStack() as stack:
        models: dict[str, Path | bytes] = {ORIGINAL: model.source.loadable}
        for outcome in outcomes:
            graph = written(outcome.chosen.model.model, outcome.chosen.plan)
            models[outcome.target] = stack.enter_context(model_for_session(graph))
        stack.enter_context(model.budget.timed())
        runtimes = {o.target: o.chosen.runtime for o in outcomes}
        race = race_models(models, model.timing_samples, model.threads, runtimes=runtimes)
    return race, settle(race)


def _final(outcome: Outcome, race: Race, speeds: SettledSpeeds) -> Trial:
    """The chosen candidate of a target as a trial, named after the target."""
    evaluator, candidate = outcome.evaluator, outcome.chosen
    error = None if evaluator.select is None else evaluator.error(candidate)
    ratio = race.ratio(outcome.target, ORIGINAL)
    return Trial(
        outcome.target,
        math.nan if error is None else error.sqnr,
        math.nan if error is None else error.sqnr_interval[0],
        speeds.ratio(outcome.target, ORIGINAL),
        ratio.median,
        (ratio.low, ratio.high),
        evaluator.size(candidate),
        keeps_task=error is None or not evaluator.criteria.broken(error),
    )


def _trials(outcome: Outcome, final: Trial) -> list[Trial]:
    """The trials of a target, their speeds against the original; the chosen one as in the last race."""
    trials = [
        final if t.name == outcome.trial else replace(t, speed=t.speedup) for t in outcome.placement.trials
    ]
    names = [t.name for t in outcome.placement.trials]
    if outcome.trial not in names:
        trials, names = [*trials, final], [*names, outcome.trial]
    regions = {t.name: t.regions for t in outcome.placement.trials}
    return [
        replace(trial, name=_named(outcome.target, name), regions=regions.get(name, 0))
        for name, trial in zip(names, trials, strict=True)
    ]


def _why(trial: Trial, best: Trial) -> str:
    """The reason that a target was not chosen."""
    slower = f"{trial.speedup:.2f}x against {best.speedup:.2f}x as fast"
    return f"{slower}, {trial.sqnr:.1f} against {best.sqnr:.1f} dB"
