"""The last candidate is float, and holds the floor even where its stored weights do not."""

from __future__ import annotations

import pytest

from qtool.data.budget import Budget
from qtool.evaluate.criteria import Criteria
from qtool.evaluate.evaluator import Evaluator
from qtool.options import silent
from qtool.placement.acceptance import first_accepted
from qtool.placement.place import Placement, float_candidate
from qtool.plan.candidate import make_candidate
from qtool.plan.model import Kind
from qtool.plan.rules import rule_based
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import TABLE
from tests.graphs import model, node, samples, weights
from tests.plan.flow import prepared


@pytest.mark.parametrize(
    ("floor", "stored"), [(20.0, True), (70.0, False)], ids=["held", "missed by storage"]
)
def test_without_inferences_left_weights_are_stored_only_where_the_floor_holds(
    floor: float, stored: bool
) -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (8, 64)}, ["y"], {"w": weights(64, 64)})
    ready = prepared(proto, samples(4, x=(8, 64)), timing=TABLE)
    floats = float_candidate(make_candidate(ready, rule_based(ready.task)), Reason(Code.NOT_FASTER))
    with Evaluator(ready, Criteria(floor), silent) as evaluator:
        evaluator.budget.most = evaluator.budget.spent = 1
        last = first_accepted(Placement(floats), floats, evaluator)
        assert evaluator.error(last).sqnr > floor
    assert any(s.kind is Kind.STORED for s in last.plan.sites) is stored


def test_the_last_steps_alone_may_use_the_reserve() -> None:
    budget = Budget(most=10, reserve=4, spent=6)
    assert not budget.affords(1)
    assert budget.affords(4, last=True)
    assert not budget.affords(5, last=True)
