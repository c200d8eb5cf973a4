"""The plans that quantize goes through: it ends, and every step is truer than the last."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from qtool.bits import weights_of
from qtool.data.memory import InMemory
from qtool.job import Job, open_job
from qtool.options import Options, silent
from qtool.placement.choose import Budget
from qtool.plan.predict import keys_of
from qtool.planning import Planner
from qtool.rewrite.write import rewrite
from qtool.search import _FIRST, Search, shortlist
from qtool.tables.targets import TABLE
from tests.rewrite.zoo import CASES


def search(case: str, budget: Budget | None = None, **options: object) -> tuple[Search, Job]:
    row = CASES[case]
    samples = [s for _ in range(2) for s in row.samples()]
    chosen = Options(profile=TABLE, threads=1, **options)  # type: ignore[arg-type]
    job = open_job(row.build(), chosen)
    source = InMemory(samples, len(samples))
    planner = Planner(job, source, silent)
    return Search(job, planner, source, budget or Budget(20.0), silent), job


# Of the last two nothing is quantized where all nodes are in float.
REPAIRED = ["residual", "transformer", "mobile-block", "gemm-row-bias"]
NAMES = ["residual", "conv-bn-relu6", "transformer"]


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_the_first_plan_is_one_of_those_that_were_tried(case: str, mode: str) -> None:
    found, job = search(case, mode=mode)
    planned = found.first()
    assert planned.plan.resolved
    chosen = found.name_of(planned.plan)
    assert chosen in {t.name for t in found.trials}
    (trial,) = (t for t in found.trials if t.name == chosen)
    assert trial.units == sum(note.quantized for note in planned.plan.units)
    assert not any(t.timed for t in found.trials), "looked up"
    assert len({t.name for t in found.trials}) == len(found.trials)
    rewrite(job.prepared.model, planned.plan)


@pytest.mark.parametrize("case", NAMES)
def test_what_is_looked_up_is_the_same_every_time(case: str) -> None:
    first, second = (search(case)[0] for _ in range(2))
    assert first.first().plan == second.first().plan
    assert first.trials == second.trials


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "dynamic"}, {"mode": "weight-only"}, {"mode": "weight-only", "bits": 4}, {"mode": "fp16"},
     {"weights": "uint8"}, {"target": "generic"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("case", REPAIRED)
def test_repairing_ends_in_floats_and_each_step_is_truer(case: str, options: dict[str, object]) -> None:
    """Nothing is exact enough: it ends all the same."""
    found, job = search(case, Budget(300.0, asked_db=True), **options)
    planned = found.first()
    steps, last = 0, -math.inf
    while (better := found.truer(planned, 30.0)) is not None:
        steps += 1
        assert steps <= 3 * len(job.view.nodes) + 3, "it never ends"
        errors = found._errors_of(better)
        now = errors.sqnr(keys_of(better.plan))
        assert now >= last - 1e-6
        last, planned = now, better
    assert not planned.plan.forms


def test_without_samples_nothing_is_repaired() -> None:
    found, _ = search("residual")
    planned = found.first()
    assert replace(found, samples=None).truer(planned, 0.0) is None


def test_what_types_were_asked_for_is_not_measured() -> None:
    found, _ = search("residual", acts="uint8")
    assert found.obstacle() is not None
    found.first()
    assert found.trials == ()


def test_in_float_nothing_is_left_but_what_was_insisted_on() -> None:
    found, _ = search("residual", include=["op:Conv"])
    planned = found.first()
    left = found.in_float(planned, "too slow").plan
    assert left.forms.keys() == found.job.wish.force
    assert {s.reason for s in left.skips} <= {s.reason for s in planned.plan.skips} | {"too slow"}


@pytest.mark.parametrize("case", NAMES)
def test_the_shortlist_is_of_the_front(case: str) -> None:
    found, _ = search(case)
    assert found.samples is not None
    known = found.learned(found.samples)
    chosen = shortlist(known, found.front, found.budget, 3)
    assert 1 <= len(chosen) <= 3
    assert all(point in found.front for point in chosen)
    assert len({id(p) for p in chosen}) == len(chosen)


def test_bits_are_spread_from_the_fewest_to_floats() -> None:
    found, job = search("transformer", mode="weight-only", bits=4)
    assert found.samples is not None
    weights = weights_of(job, found.planner, found.samples, silent)
    wishes = weights.spread(4)
    sizes = [len(found.planner.plan(w).plan.sites) for w in wishes.values()]
    assert len(wishes) == 5
    assert sizes[-1] == 0, "floats, every one"
    for size in (weights.least, weights.least * 2):
        levels = {n: {one.qtype: one.bytes for one in found} for n, found in weights.levels.items()}
        chosen = weights.within(size).weights
        used = sum(levels[name][chosen[nodes[0]]] for name, nodes in weights.nodes.items() if name in levels)
        assert used <= size


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_the_least_effort_gives_the_plan_of_the_rules_and_tries_nothing(case: str, mode: str) -> None:
    found, job = search(case, mode=mode, effort="fast")
    assert found.obstacle() is not None
    planned = found.first()
    assert planned.plan == Planner(job, found.planner.calib, silent).plan(job.wish).plan
    assert found.trials == () and found.gains == () and found.front == []
    assert found.name_of(planned.plan) == ""


@pytest.mark.parametrize("case", NAMES)
def test_what_is_won_before_placement_is_marked_so(case: str) -> None:
    found, _ = search(case)
    planned = found.first()
    assert found.gains and all(gain.first for gain in found.gains)
    assert {gain.name for gain in found.gains} <= set(_FIRST)
    assert [g.name for g in found.gains] == [n for n in _FIRST if n in {g.name for g in found.gains}]
    kept = {gain.name for gain in found.gains if gain.kept}
    assert (planned.plan.scaled != {}) <= ("equalize" in kept)
    assert bool(found.job.wish.bounds) == ("ranges" in kept)
    if "gptq" in kept and planned.plan.forms:
        assert any(s.integers is not None for s in planned.plan.sites)


def test_nothing_is_won_back_before_placement_where_nothing_is_asked_for() -> None:
    found, _ = search("residual", recover="none")
    found.first()
    assert found.gains == () and found.trials != ()


def test_more_effort_builds_more() -> None:
    usual, most = (search("transformer", effort=effort)[0] for effort in ("balanced", "best"))
    usual.first(), most.first()
    assert len(usual.trials) <= len(most.trials) <= 8 + 2
    assert len(usual.trials) <= 3 + 2
