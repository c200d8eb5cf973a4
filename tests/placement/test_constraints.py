"""The user's constraints hold for every producer of assignments, and none of them changes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qtool.evaluate.criteria import Criteria
from qtool.evaluate.evaluator import Evaluator
from qtool.options import silent
from qtool.placement.acceptance import first_accepted
from qtool.placement.first_race import race_first
from qtool.placement.place import FLOAT, float_candidate, place
from qtool.placement.repair import repair
from qtool.placement.timing import measure_timing
from qtool.placement.trials import Trial
from qtool.plan.assignment import Assignment
from qtool.plan.candidate import make_candidate
from qtool.plan.constraints import Constraints
from qtool.plan.predict import keys_of
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import maximal, rule_based
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import TABLE
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import prepared
from tests.rewrite.zoo import CASES
from tests.tiers import examples

STATES = st.sampled_from(["free", "free", "float", "quantized"])


def constrained_model(case: str, states: Iterable[tuple[str, str]]) -> PreparedModel:
    """A case of the zoo with what the user asks of its nodes."""
    row = CASES[case]
    by_state: dict[str, list[str]] = {"float": [], "quantized": [], "free": []}
    for name, state in states:
        by_state[state].append(name)
    return prepared(
        row.build(),
        row.samples(),
        timing=TABLE,
        exclude=tuple(by_state["float"]),
        include=tuple(by_state["quantized"]),
    )


def holds(assignment: Assignment, constraints: Constraints) -> bool:
    forms = assignment.forms.keys()
    settled = all(
        assignment.reasons[n] == why for n, why in constraints.float_nodes.items() if n in assignment.reasons
    )
    return settled and not forms & constraints.float_nodes.keys() and constraints.quantize <= forms


@pytest.mark.parametrize("case", ["residual", "transformer", "float-between"])
@given(data=st.data())
@settings(
    max_examples=examples(4), deadline=None, phases=[Phase.generate]
)  # to shrink a failure takes minutes
def test_every_producer_of_assignments_holds_the_constraints(case: str, data: st.DataObject) -> None:
    names = sorted(maximal(constrained_model(case, ()).task).forms)
    model = constrained_model(case, [(name, data.draw(STATES)) for name in names])
    before = replace(model.constraints)
    assert holds(rule_based(model.task), before) and holds(maximal(model.task), before)
    timing = measure_timing(model)
    assert timing is not None
    with Evaluator(model, Criteria(300.0), silent) as evaluator:
        first = race_first(timing, evaluator)
        assert holds(first.base.assignment, before)
        placement = place(first.base, first, evaluator, 3)
        costs = placement.cost_model
        for point in () if costs is None else costs.front:
            assert holds(costs.assignment(point), before)
        for plan in placement.plans.values():
            assert holds(Assignment(plan.forms), before)
        base = timing.all_int8
        errors = evaluator.errors_of(base)
        repaired = repair(base, errors, errors.sqnr(keys_of(base.plan)) + 6)
        assert repaired is None or holds(repaired, before)
        last = first_accepted(placement, placement.candidate, evaluator)
        floats = float_candidate(base, Reason(Code.ACCURACY, "for a test"))
        for actual in (last, floats):  # no candidate reaches the floor
            assert holds(actual.assignment, before) and actual.assignment.forms.keys() == before.quantize
    assert model.constraints == before == last.model.constraints


def test_float_is_not_chosen_where_options_name_a_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def float_is_best(trials: Sequence[Trial], criteria: Criteria) -> Trial:
        return next(t for t in trials if t.name == FLOAT)

    monkeypatch.setattr("qtool.placement.place.choose", float_is_best)
    row = CASES["residual"]
    for named in ({}, {"per_tensor": True}, {"per_tensor": True, "allow_float": True}):
        ready = prepared(row.build(), row.samples(), timing=TABLE, **named)
        timing = measure_timing(ready)
        assert timing is not None
        with Evaluator(ready, Criteria(20.0), silent) as evaluator:
            first = race_first(timing, evaluator)
            forms = place(first.base, first, evaluator, 3).candidate.plan.forms
        assert forms == (rule_based(ready.task).forms if named == {"per_tensor": True} else {})


MASK = float(np.finfo(np.float32).min)


def with_column(value: float) -> list[dict[str, np.ndarray]]:
    """Samples of ones, but for one column."""
    row = np.ones((4, 64), np.float32)
    row[:, 0] = value
    return [{"x": row}] * 4


@pytest.mark.parametrize(
    ("value", "include", "code"),
    [(4000, (), Code.OUTLIERS), (4000, ("n",), None), (MASK, ("n",), Code.NO_RANGE)],
    ids=["outliers", "outliers, but requested", "no range, but requested"],
)
def test_the_calibration_fallback_drops_required_nodes_only_without_a_range(
    value: float, include: tuple[str, ...], code: Code | None
) -> None:
    layer = [node("MatMul", ["x", "w"], ["y"], name="n")]
    proto = model(layer, {"x": ["N", 64]}, ["y"], {"w": weights(64, 64)})
    ready = prepared(proto, with_column(value), include=include)
    before = replace(ready.constraints)
    actual = make_candidate(ready, rule_based(ready.task))
    assert ("n" in actual.plan.forms) == (code is None)
    if code is not None:
        assert actual.assignment.reasons["n"].code is code
    assert ready.constraints == actual.model.constraints == before
