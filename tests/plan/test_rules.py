"""The rules quantize the maximal set, and take nodes back to float with the nodes they depend on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.plan.assignment import Assignment, PlanInput, assigned_graph
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import maximal, rule_based, to_float
from qtool.tables.reasons import Code, Reason
from qtool.tables.targets import INSIDE
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import ready
from tests.plan.subsets import subsets
from tests.rewrite.zoo import CASES
from tests.tiers import examples

WHY = Reason(Code.ACCURACY, "for a test")
READY = {
    name: ready(CASES[name].build())
    for name in ("residual", "mobile-block", "transformer", "pass-through", "float-between", "silu")
}


def settled_by_hand(task: PlanInput, start: Assignment, gone: frozenset[str]) -> set[str]:
    """The remaining nodes when nodes that no longer pay are dropped one at a time."""
    held = {name for name in start.forms if assigned_graph(task, start).pays(name)}
    left = {name: form for name, form in start.forms.items() if name not in gone}
    while True:
        now = assigned_graph(task, Assignment(left))
        lost = next((name for name in left if name in held and not now.pays(name)), None)
        if lost is None:
            return set(left)
        del left[lost]


@pytest.mark.parametrize("case", READY)
@given(data=st.data())
@settings(max_examples=examples(20), deadline=None)
def test_to_float_also_removes_exactly_the_nodes_that_no_longer_pay(case: str, data: st.DataObject) -> None:
    task = READY[case].task
    start = data.draw(subsets(task, maximal(task)))
    names = sorted(start.forms) or ["no such node"]
    gone = data.draw(st.frozensets(st.sampled_from(names), max_size=3))
    after = to_float(task, start, dict.fromkeys(gone, WHY))
    assert set(after.forms) == settled_by_hand(task, start, gone)
    assert {n for n in start.forms if after.reasons.get(n) is WHY} == gone & start.forms.keys()
    assert start.forms.keys() - after.forms.keys() <= after.reasons.keys(), "each has a reason"


CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def row() -> PreparedModel:
    """conv `a`, relu `r`, depthwise `d`, conv `z`: the two in the middle pay between the others."""
    nodes = [
        node("Conv", ["x", "wa"], ["a"], name="a", **CONV),
        node("Relu", ["a"], ["r"], name="r"),
        node("Conv", ["r", "wd"], ["d"], name="d", group=16, **CONV),
        node("Conv", ["d", "wz"], ["z"], name="z", **CONV),
    ]
    constants = {"wa": weights(16, 16, 3, 3), "wd": weights(16, 1, 3, 3), "wz": weights(16, 16, 3, 3, seed=1)}
    return ready(model(nodes, {"x": [1, 16, 8, 8]}, ["z"], constants))


@pytest.mark.parametrize(
    ("gone", "left"), [("a", {"z"}), ("r", {"a", "z"}), ("d", {"a", "r", "z"}), ("z", {"a", "r"})]
)
def test_nodes_that_need_a_neighbour_go_back_with_it(gone: str, left: set[str]) -> None:
    task = row().task
    start = rule_based(task)
    assert set(start.forms) == {"a", "r", "d", "z"}
    after = to_float(task, start, {gone: WHY})
    assert set(after.forms) == left
    for name in start.forms.keys() - left - {gone}:
        assert after.reasons[name] == INSIDE.reason


def test_a_node_that_did_not_pay_before_stays() -> None:
    """A measurement quantized it."""
    task = row().task
    start = to_float(task, rule_based(task), {})
    forms = {name: form for name, form in start.forms.items() if name in ("d", "z")}
    alone = Assignment(forms)
    assert not assigned_graph(task, alone).pays("d"), "its input arrives in float"
    assert set(to_float(task, alone, {"z": WHY}).forms) == {"d"}


def test_a_specific_reason_is_kept() -> None:
    task = row().task
    excluded = Reason(Code.CONSTRAINT, "excluded by 'a'")
    start = Assignment({}, {"a": excluded})
    assert to_float(task, start, {"a": WHY, "z": WHY}).reasons == {"a": excluded, "z": WHY}
