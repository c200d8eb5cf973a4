"""What is known of a model, and plans that have exactly the units that a point has."""

from __future__ import annotations

import math

import pytest

from qtool.data.memory import InMemory
from qtool.job import open_job
from qtool.options import Options, silent
from qtool.placing import Measured, front, labelled, measured
from qtool.placement.pareto import spread
from qtool.planning import Planner
from qtool.tables.targets import MEASURED, TABLE
from tests.rewrite.zoo import CASES

NAMES = ["residual", "conv-bn-relu6", "transformer"]


def learned(case: str, profile: str = TABLE, **options: object) -> tuple[Measured, Planner]:
    row = CASES[case]
    samples = [s for _ in range(2) for s in row.samples()]
    job = open_job(row.build(), Options(profile=profile, threads=1, **options))  # type: ignore[arg-type]
    source = InMemory(samples, len(samples))
    planner = Planner(job, source, silent)
    return measured(job, planner, source, 20.0, silent), planner


@pytest.mark.parametrize("profile", [TABLE, MEASURED])
@pytest.mark.parametrize("case", NAMES)
def test_every_unit_has_its_times_and_every_tensor_its_error(case: str, profile: str) -> None:
    known, _ = learned(case, profile)
    net = known.network
    assert known.units_of(known.everything.plan) == {u.name for u in net.regions}
    for unit in net.regions:
        assert all(0 <= t < math.inf for t in net.times[unit.name])
    assert all(n >= 0 for n in net.noises.values())
    assert known.seconds > 0


@pytest.mark.parametrize("case", NAMES)
def test_a_plan_has_exactly_the_units_of_its_point(case: str) -> None:
    known, planner = learned(case)
    for point in spread(known.network, front(known, 20.0), 6):
        plan = planner.plan(labelled(known, point)).plan
        assert known.units_of(plan) == point.int8
        assert known.speed_of(plan) == pytest.approx(known.speed(point))
        quantizable = {n for u in known.network.regions for n in u.nodes}
        reasons = {s.node: s.reason for s in plan.skips}
        assert all(reasons[n] for n in quantizable - plan.forms.keys())


@pytest.mark.parametrize("case", NAMES)
def test_the_front_is_in_order(case: str) -> None:
    known, _ = learned(case)
    points = front(known, 30.0)
    assert points == sorted(points, key=lambda p: p.seconds)


def test_what_was_asked_for_is_in_every_point() -> None:
    known, planner = learned("residual", include=["op:Add"])
    for point in front(known, 20.0):
        plan = planner.plan(labelled(known, point)).plan
        assert "Add_a" in plan.forms


def test_what_was_excluded_is_in_none() -> None:
    known, _ = learned("residual", exclude=["op:Add"])
    assert "Add_a" not in known.everything.plan.forms
    assert all("Add_a" not in u.nodes for u in known.network.regions)
