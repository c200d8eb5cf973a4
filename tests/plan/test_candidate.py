"""Candidates: a plan follows from its assignment, ranges and integers alone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.graph.save import to_bytes
from qtool.graph.view import float_constant
from qtool.plan.assignment import Assignment
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.model import WEIGHTS, Kind, OutlierColumns, Plan, RegionNote, Scaled, Site
from qtool.plan.prepared import PreparedModel
from qtool.plan.resolve import integers_of
from qtool.plan.rules import maximal, rule_based, to_float
from qtool.plan.serial import digest
from qtool.rewrite.write import written
from qtool.tables.qtypes import UINT4
from qtool.tables.reasons import Code, Reason
from tests import outliers
from tests.plan.flow import candidate, prepared
from tests.plan.subsets import subsets
from tests.rewrite.zoo import CASES
from tests.tiers import examples

NAMES = ("residual", "transformer", "mobile-block", "pass-through", "if-weights")
WHY = Reason(Code.ACCURACY, "for a test")


@cache
def model_of(case: str) -> PreparedModel:
    return prepared(CASES[case].build(), CASES[case].samples())


def fresh(model: PreparedModel) -> PreparedModel:
    """The same model without ranges."""
    return replace(model, ranges=model.memo_of(model.model, model.task))


def written_plan(done: Candidate) -> tuple[Plan, str, bytes]:
    return done.plan, digest(done.plan), to_bytes(written(done.model.model, done.plan))


@pytest.mark.parametrize("case", NAMES)
@given(data=st.data())
@settings(max_examples=examples(4), deadline=None)
def test_a_plan_does_not_depend_on_earlier_candidates(case: str, data: st.DataObject) -> None:
    model = model_of(case)
    some = data.draw(st.lists(subsets(model.task, maximal(model.task)), min_size=2, max_size=3))
    alone = [written_plan(make_candidate(fresh(model), one)) for one in some]
    shared = fresh(model)
    for number in data.draw(st.permutations(range(len(some)))):
        assert written_plan(make_candidate(shared, some[number])) == alone[number]


@pytest.mark.parametrize("case", NAMES[:2])
def test_the_digest_covers_decisions_alone(case: str) -> None:
    model = model_of(case)
    base = make_candidate(model, rule_based(model.task))
    reasons = {node.name or "": WHY for node in model.view.nodes if node.name not in base.assignment.forms}
    other = base.changed(assignment=replace(base.assignment, reasons=reasons))
    note = RegionNote(("n",), 1.0, 2.0, 30.0, True, "why")
    assert digest(other.plan) == digest(replace(other.plan, regions=(note,))) == digest(base.plan)
    assert written_plan(other)[2] == written_plan(base)[2]
    gone = next(iter(base.assignment.forms))
    fewer = base.changed(assignment=to_float(model.task, base.assignment, {gone: WHY}))
    assert digest(fewer.plan) != digest(base.plan)


def moved(done: Candidate) -> Candidate:
    """The candidate with every weight rounded one step further than to the nearest."""

    def further(site: Site) -> Site:
        array = float_constant(done.model.view.values[site.value])
        if site.kind not in WEIGHTS or array is None:
            return site
        q, qtype = integers_of(site, array).astype(np.int64), site.spec.qtype
        return replace(site, integers=np.clip(q + 1, qtype.qmin, qtype.qmax).astype(qtype.dtype))

    return done.with_plan(replace(done.plan, sites=tuple(map(further, done.plan.sites))))


def rounded(done: Candidate) -> set[str]:
    """The weights with integers of their own."""
    return {s.value for s in done.plan.sites if s.integers is not None}


def mlp() -> Candidate:
    return candidate(CASES["mlp-matmul"].build(), CASES["mlp-matmul"].samples())


def without(done: Candidate, node: str) -> Assignment:
    return to_float(done.model.task, done.assignment, {node: WHY})


def test_integers_stay_where_the_scales_of_a_weight_are_equal() -> None:
    base = moved(mlp())
    weights = {s.value for s in base.plan.sites if s.kind in WEIGHTS}
    assert rounded(base) == weights and len(weights) > 1
    assert base.changed().plan == base.plan
    first = next(s for s in base.plan.sites if s.kind is Kind.WEIGHT)
    node = (first.uses or ())[0][0]
    fewer = base.changed(assignment=without(base, node))
    assert node not in fewer.plan.forms
    assert rounded(fewer) >= weights - {first.value}
    before = {s.value: s.integers for s in base.plan.sites}
    for site in fewer.plan.sites:
        assert site.integers is None or site.integers is before[site.value]
    narrow = replace(without(base, node), weight_types={node: UINT4})
    assert rounded(base.changed(assignment=narrow)) == weights - {first.value}, "another type, other scales"
    assert base.changed(assignment=base.assignment).plan == base.plan, "the candidate itself is unchanged"


def test_integers_of_a_scaled_constant_are_dropped() -> None:
    base = moved(mlp())
    weight = next(s for s in base.plan.sites if s.kind is Kind.WEIGHT)
    array = float_constant(base.model.view.values[weight.value])
    assert array is not None
    other = base.model.rescaled({weight.value: (Scaled(0, (2.0,) * array.shape[0]),)})
    assert rounded(base.changed(model=other)) == rounded(base) - {weight.value}


def test_corrections_are_dropped_with_other_forms() -> None:
    base = mlp()
    bias = next(s.value for s in base.plan.sites if s.kind is Kind.BIAS)
    array = float_constant(base.model.view.values[bias])
    assert array is not None
    base = base.with_plan(replace(base.plan, corrections={bias: (0.5,) * array.size}))
    node = next(iter(base.assignment.forms))
    assert base.changed(bounds={"x": (-1.0, 1.0)}).plan.corrections == base.corrections != {}
    assert not base.changed(assignment=without(base, node)).plan.corrections


def test_integers_apply_to_one_set_of_outlier_columns() -> None:
    few = {"h": OutlierColumns(outliers.LOUD[:1], -1.0, 60.0)}
    many = {"h": OutlierColumns(outliers.LOUD, -1.0, 1.0)}
    plain = candidate(outliers.proto(), outliers.samples(), include=["op:MatMul"])
    assert {"a", "b"} <= rounded(moved(plain))
    both = moved(plain.changed(outlier_columns=many))
    assert {"a", "b"} <= rounded(both)
    assert not {"a", "b"} & rounded(both.changed(outlier_columns=few))
    assert not {"a", "b"} & rounded(both.changed(outlier_columns={}))
    assert not {"a", "b"} & rounded(moved(plain).changed(outlier_columns=many))
    back = both.changed(outlier_columns=few).changed(outlier_columns=many)
    assert back.plan == both.plan
