"""Plans built and run, side by side: what each comes to in time, error and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from qtool.data.samples import Part, evenly
from qtool.data.samples import Source as Samples
from qtool.evaluate.compare import compare
from qtool.evaluate.latency import race_models
from qtool.evaluate.ports import in_floats
from qtool.graph.save import file_size, model_for_session
from qtool.job import Job
from qtool.options import Progress
from qtool.plan.choose import Trial
from qtool.planning import Planned
from qtool.recipe import written
from qtool.session import Session
from qtool.tables.efforts import BALANCED, EFFORTS


def tried(
    job: Job,
    plans: Mapping[str, Planned],
    samples: Samples,
    timed: bool,
    progress: Progress,
    judged: int = EFFORTS[BALANCED].judged,
) -> tuple[Trial, ...]:
    """Build each plan, compare it with FP32, and race them all.

    Args:
        job: the model that they are compared with.
        plans: resolved, by name.
        samples: held-out ones.
        timed: whether they are raced; else all are as fast as FP32.
        progress: told how many are judged.
        judged: the most samples that they are judged on.
    """
    threads = job.options.threads
    some = Part(samples, evenly(len(samples), judged), samples.name)
    fp32 = Session(job.source.loadable, threads=threads, name=job.source.name)
    with ExitStack() as stack:
        models: dict[str, Path | bytes] = {}
        errors: dict[str, float] = {}
        sizes: dict[str, int] = {}
        for done, (name, planned) in enumerate(plans.items(), start=1):
            model = written(planned.job.prepared.model, planned.plan)
            loadable = stack.enter_context(model_for_session(model))
            session = in_floats(Session(loadable, threads=threads, name=f"the candidate '{name}'"))
            errors[name] = compare(fp32, session, some).sqnr
            models[name], sizes[name] = loadable, file_size(model)
            progress("candidates", done, len(plans))
        if not timed:
            return tuple(Trial(name, errors[name], 1.0, 1.0, sizes[name], timed=False) for name in plans)
        others: dict[str, Path | bytes] = {
            _ORIGINAL: job.source.loadable,
            _PREPARED: stack.enter_context(model_for_session(job.prepared.model)),
        }
        race = race_models({**others, **models}, some, threads)
    # Of one race, so that what is faster than another against the one is so against the other.
    gain = race.ratio(_PREPARED, _ORIGINAL).median
    speeds = {name: race.ratio(name, _PREPARED).median for name in plans}
    return tuple(Trial(name, errors[name], speeds[name], speeds[name] * gain, sizes[name]) for name in plans)


# No plan has such a name.
_ORIGINAL, _PREPARED = " original", " prepared"
