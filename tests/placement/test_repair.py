"""Repair: from any assignment, step by step to float; nodes that the user requires stay."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.evaluate.criteria import Criteria
from qtool.evaluate.evaluator import Evaluator
from qtool.options import silent
from qtool.placement.repair import repair
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.model import WEIGHTS
from qtool.plan.predict import TensorNoise, keys_of
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import maximal
from qtool.tables.reasons import Code
from tests.plan.flow import candidate, prepared
from tests.plan.subsets import constrained, subsets
from tests.rewrite.zoo import CASES
from tests.tiers import examples

# Of the last of each mode nothing is quantized where all nodes are in float.
STARTS = {
    "residual": ("residual", {}),
    "transformer": ("transformer", {}),
    "mobile-block": ("mobile-block", {}),
    "dynamic": ("transformer", {"mode": "dynamic"}),
    "generic": ("pass-through", {"target": "generic"}),
    "4 bits": ("transformer", {"mode": "weight-only", "bits": 4}),
    "fp16": ("residual", {"mode": "fp16"}),
}


@cache
def started(name: str) -> PreparedModel:
    case, options = STARTS[name]
    return prepared(CASES[case].build(), CASES[case].samples(), **options)


@cache
def evaluator(name: str) -> Evaluator:
    return Evaluator(started(name), Criteria(300.0), silent)


def bits(made: Candidate) -> dict[str, int]:
    """Weight -> the bits that it is stored in."""
    return {s.value: s.spec.qtype.bits for s in made.plan.sites if s.kind in WEIGHTS}


@pytest.mark.parametrize("name", STARTS)
@given(data=st.data())
@settings(max_examples=examples(8), deadline=None)
def test_repair_ends_in_float_and_undoes_no_step(name: str, data: st.DataObject) -> None:
    model = constrained(started(name), data)
    required = model.constraints.quantize
    now = make_candidate(model, data.draw(subsets(model.task, maximal(model.task))))
    errors = evaluator(name).errors_of(now)
    last = errors.sqnr(keys_of(now.plan))
    for _ in range(3 * len(model.view.nodes) + 3):
        after = repair(now, errors, last + 0.5)
        if after is None:
            break
        better = now.changed(assignment=after)
        assert required <= better.assignment.forms.keys() <= now.assignment.forms.keys()
        wider = bits(better)
        assert all(wider.get(weight, 32) >= before for weight, before in bits(now).items())
        errors = evaluator(name).errors_of(better)
        now, last = better, errors.sqnr(keys_of(better.plan))
    else:
        raise AssertionError("it never ends")
    assert now.assignment.forms.keys() == required
    assert model.constraints == now.model.constraints


def made_up(made: Candidate, noise: float, **others: float) -> TensorNoise:
    """Errors of all that a candidate quantizes, the same but for some."""
    keys = dict.fromkeys(keys_of(made.plan), noise) | others
    return TensorNoise(("y",), np.array([1.0]), {k: np.array([v]) for k, v in keys.items()}, 1, 1)


@pytest.mark.parametrize("name", STARTS)
def test_an_accurate_candidate_stays(name: str) -> None:
    model = started(name)
    actual = make_candidate(model, maximal(model.task))
    errors = made_up(actual, 1e-6)
    assert repair(actual, errors, errors.sqnr(keys_of(actual.plan))) is None


def test_the_most_sensitive_nodes_go_first_and_no_more_than_needed() -> None:
    actual = candidate(CASES["residual"].build(), CASES["residual"].samples())
    worst = keys_of(actual.plan)[0]
    after = repair(actual, made_up(actual, 1e-6, **{worst: 0.1}), 40.0)
    assert after is not None
    gone = actual.assignment.forms.keys() - after.forms.keys()
    assert worst == "x"
    assert gone == {"Conv_c0", "Relu_r0"}, "its only reader, and the clamp of that"
    assert after.reasons["Conv_c0"].code is Code.ACCURACY
    assert "10.0 dB" in str(after.reasons["Conv_c0"])


def test_a_node_in_float_takes_the_error_of_its_weight_with_it() -> None:
    actual = candidate(CASES["residual"].build(), CASES["residual"].samples())
    view = actual.model.view
    weight = next(
        key for key in keys_of(actual.plan) if key.startswith(view.node_by_name["Conv_c0"].inputs[1].name)
    )
    after = repair(actual, made_up(actual, 1e-6, **{"x": 0.1, weight: 0.05}), 40.0)
    assert after is not None
    assert actual.assignment.forms.keys() - after.forms.keys() == {"Conv_c0", "Relu_r0"}


def test_required_nodes_stay_quantized() -> None:
    model = prepared(CASES["residual"].build(), CASES["residual"].samples())
    name = next(iter(maximal(model.task).forms))
    constraints = replace(model.constraints, quantize=frozenset({name}))
    model = replace(model, task=replace(model.task, constraints=constraints))
    actual = make_candidate(model, maximal(model.task))
    after = repair(actual, made_up(actual, 0.1), 100.0)
    assert after is not None
    assert after.forms.keys() == {name}
