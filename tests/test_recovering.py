"""Steps of recovery: kept where the error falls, named where they are not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qtool import recovering
from qtool.data.memory import InMemory
from qtool.errors import RuntimeFailure, UsageError
from qtool.graph.view import float_constant
from qtool.job import open_job
from qtool.options import Options, silent
from qtool.plan.integers import integers_of
from qtool.plan.model import WEIGHTS
from qtool.planning import Planned, Planner
from qtool.recovering import Given, recovered, wanted
from qtool.tables.recoveries import RECOVERIES
from tests.rewrite.zoo import CASES


def planned(case: str, recover: str = "gptq") -> tuple[Planned, InMemory]:
    row = CASES[case]
    samples = [s for _ in range(4) for s in row.samples()]
    job = open_job(row.build(), Options(threads=1, recover=recover))
    source = InMemory(samples, len(samples))
    return Planner(job, source, silent).plan(job.wish), source


@pytest.mark.parametrize("case", ["residual", "transformer"])
def test_the_error_never_rises(case: str) -> None:
    plan, source = planned(case)
    better, gains = recovered(plan, source, source, silent)
    for gain in gains:
        assert gain.kept == (better.plan != plan.plan)
        assert not gain.kept or gain.after > gain.before


def test_a_step_that_harms_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(given: Given, planned: Planned) -> Planned:
        sites = tuple(
            replace(s, integers=np.ones_like(integers_of(s, array)))
            if (array := float_constant(planned.job.view.values[s.value])) is not None and s.kind in WEIGHTS
            else s
            for s in planned.plan.sites
        )
        return replace(planned, plan=replace(planned.plan, sites=sites))

    monkeypatch.setattr(recovering, "STEPS", {"gptq": spoilt})
    plan, source = planned("residual")
    after, (gain,) = recovered(plan, source, source, silent)
    assert not gain.kept
    assert gain.after < gain.before
    assert after.plan is plan.plan


@pytest.mark.parametrize("without", ["calib", "held_out"])
def test_without_samples_nothing_is_done(without: str) -> None:
    plan, source = planned("residual")
    given = {"calib": source, "held_out": source, without: None}
    assert recovered(plan, **given, progress=silent) == (plan, ())


def test_none_does_nothing() -> None:
    plan, source = planned("residual", "none")
    assert recovered(plan, source, source, silent) == (plan, ())


def test_names() -> None:
    assert wanted(Options(effort="best")) == frozenset(RECOVERIES)
    assert wanted(Options(effort="balanced")) == {r.name for r in RECOVERIES.values() if r.effort != "best"}
    assert wanted(Options(effort="fast")) == frozenset()
    assert wanted(Options(recover="none")) == frozenset()
    assert wanted(Options(recover="gptq, columns", effort="fast")) == {"gptq", "columns"}
    with pytest.raises(UsageError) as caught:
        wanted(Options(recover="gtpq"))
    assert "gptq" in caught.value.hint


def test_a_step_that_can_not_be_tried_costs_nobody_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(given: Given, planned: Planned) -> Planned:
        raise RuntimeFailure("no such kernel")

    monkeypatch.setattr(recovering, "STEPS", {"gptq": refused})
    plan, source = planned("residual")
    after, (gain,) = recovered(plan, source, source, silent)
    assert after is plan
    assert (gain.failed, gain.kept) == ("no such kernel", False)
