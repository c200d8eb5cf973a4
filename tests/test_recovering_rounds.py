"""The steps of recovery as they follow each other: which are tried, how often, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qtool import recovering
from qtool.data.memory import InMemory
from qtool.graph.view import float_constant
from qtool.job import open_job
from qtool.options import Options, silent
from qtool.placement.choose import Gain
from qtool.plan.integers import integers_of
from qtool.plan.model import WEIGHTS
from qtool.planning import Planned, Planner
from qtool.recovering import Given, done_before, recovered
from qtool.tables.recoveries import RECOVERIES
from tests.recover.whole import memory
from tests.rewrite.zoo import CASES

STEP_NAMES = [name for name in RECOVERIES if name != "columns"]


def planned(case: str, **options: object) -> tuple[Planned, InMemory]:
    row = CASES[case]
    source = memory([s for _ in range(3) for s in row.samples()])
    job = open_job(row.build(), Options(threads=1, **options))  # type: ignore[arg-type]
    return Planner(job, source, silent).plan(job.wish), source


def off(by: int) -> Callable[[Given, Planned], Planned]:
    """A step that moves every weight's integers so far from the nearest."""

    def step(given: Given, done: Planned) -> Planned:
        sites = []
        for site in done.plan.sites:
            array = float_constant(done.job.view.values[site.value])
            if site.kind in WEIGHTS and array is not None:
                nearest = integers_of(replace(site, integers=None), array).astype(np.int16)
                q = np.clip(nearest + by, site.spec.qtype.qmin, site.spec.qtype.qmax)
                site = replace(site, integers=q.astype(site.spec.qtype.dtype))
            sites.append(site)
        return replace(done, plan=replace(done.plan, sites=tuple(sites)))

    return step


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that helps a spoilt plan, one that helps it more, and one that harms."""
    monkeypatch.setattr(recovering, "STEPS", {"equalize": off(3), "gptq": off(1), "bias": off(9)})


def spoilt(**options: object) -> tuple[Planned, InMemory]:
    done, source = planned("residual", **options)
    return off(6)(Given(source, source, lambda a, b: None), done), source


@pytest.mark.usefixtures("three")
def test_each_better_plan_is_told_of_and_the_last_is_the_answer() -> None:
    start, source = spoilt()
    told: list[Planned] = []
    best, gains = recovered(start, source, source, silent, told.append)
    assert [(g.name, g.kept) for g in gains] == [("equalize", True), ("gptq", True), ("bias", False)]
    assert len(told) == 2 and told[-1] is best
    assert gains[0].after == pytest.approx(gains[1].before) and gains[1].after == pytest.approx(
        gains[2].before
    )
    assert all((g.after > g.before) == g.kept for g in gains)


@pytest.mark.usefixtures("three")
def test_only_those_that_are_asked_for_are_tried() -> None:
    start, source = spoilt()

    def names(**given: list[str]) -> list[str]:
        return [g.name for g in recovered(start, source, source, silent, **given)[1]]  # type: ignore[arg-type]

    assert names(only=["gptq"]) == ["gptq"]
    assert names(only=["bias", "equalize"]) == ["equalize", "bias"]
    assert names(but=["gptq"]) == ["equalize", "bias"]
    assert names(only=["gptq", "bias"], but=["gptq"]) == ["bias"]
    assert names(only=[]) == []


@pytest.mark.usefixtures("three")
def test_what_was_not_asked_for_is_not_tried_even_by_name() -> None:
    start, source = spoilt(recover="gptq")
    assert [g.name for g in recovered(start, source, source, silent, only=["bias", "gptq"])[1]] == ["gptq"]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(("effort", "most"), [("balanced", 1), ("best", 4)])
def test_more_effort_goes_round_while_it_pays(effort: str, most: int) -> None:
    start, source = spoilt(effort=effort, recover="equalize,gptq,bias")
    _, gains = recovered(start, source, source, silent)
    rounds = sum(g.name == "bias" for g in gains)
    assert rounds == min(most, 2), "the second wins nothing"
    assert not any(g.kept for g in gains[3:])


def test_what_harms_alone_leaves_the_plan_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "STEPS", {"gptq": off(5)})
    start, source = planned("residual", effort="best")
    told: list[Planned] = []
    best, gains = recovered(start, source, source, silent, told.append)
    assert best is start and told == [] and [g.kept for g in gains] == [False]


def test_a_step_that_changes_nothing_is_no_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "STEPS", {"gptq": lambda given, done: done})
    start, source = planned("residual")
    assert recovered(start, source, source, silent) == (start, ())


def test_fast_tries_nothing_unasked_and_what_is_named() -> None:
    start, source = planned("residual", effort="fast")
    assert recovered(start, source, source, silent) == (start, ())
    named, source = planned("residual", effort="fast", recover="bias,gptq")
    assert {g.name for g in recovered(named, source, source, silent)[1]} <= {"bias", "gptq"}


@pytest.mark.parametrize("name", STEP_NAMES)
@pytest.mark.parametrize("case", ["transformer", "mobile-block"])
def test_each_step_alone_never_lowers_the_sqnr(case: str, name: str) -> None:
    start, source = planned(case, recover=name)
    best, gains = recovered(start, source, source, silent)
    assert {g.name for g in gains} <= {name}
    assert (best is start) == (not any(g.kept for g in gains))
    assert best.plan.resolved and best.plan.forms.keys() == start.plan.forms.keys()


def test_progress_says_which_step_and_what_was_won() -> None:
    start, source = planned("transformer", recover="gptq,bias")
    stages: list[str] = []
    recovered(start, source, source, lambda stage, done, total: stages.append(stage))
    assert all(s.startswith("recover: ") for s in stages)
    assert {s.split(",")[0] for s in stages} == {"recover: gptq", "recover: bias"}


def test_what_was_kept_before_is_not_tried_again_but_for_gptq_and_bias() -> None:
    gains = [Gain(name, 20.0, 21.0, 0.1, name != "awq") for name in STEP_NAMES]
    assert done_before(gains) == set(STEP_NAMES) - {"awq", "gptq", "bias"}
    assert done_before([]) == frozenset()


def test_made_up_samples_judge_nothing() -> None:
    start, source = planned("residual")
    source.traits = replace(source.traits, synthetic=True)
    assert recovered(start, source, source, silent) == (start, ())
