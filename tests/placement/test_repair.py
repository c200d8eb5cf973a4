"""Going back to float: it ends, it only ever gives back, and what the user forced stays."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.plan.model import Wishes
from qtool.plan.predict import Errors, keys_of
from qtool.plan.repair import repaired
from qtool.tables.qtypes import FLOAT32
from tests.plan.flow import Settled, settled
from tests.rewrite.zoo import CASES

CASE = {
    name: settled(CASES[case].build(), CASES[case].samples(), mode=mode, **choices)
    for name, case, mode, choices in (
        ("int8", "residual", "static", {}),
        ("transformer", "transformer", "static", {}),
        ("bits", "transformer", "weight-only", {"bits": 4}),
        ("half", "residual", "fp16", {}),
    )
}


def errors_of(done: Settled, noises: list[float]) -> Errors:
    keys = keys_of(done.plan)
    noise = {key: np.array([noises[i % len(noises)]]) for i, key in enumerate(keys)}
    return Errors(("y",), np.array([1.0]), noise, 1, 1)


NOISES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("name", CASE)
@given(noises=NOISES, aim=st.floats(-10, 120) | st.just(math.inf), data=st.data())
@settings(max_examples=40, deadline=None)
def test_it_ends_and_only_gives_back(name: str, noises: list[float], aim: float, data: st.DataObject) -> None:
    done = CASE[name]
    errors, view = errors_of(done, noises), done.ready.view
    forms = sorted(done.plan.forms)
    force = frozenset(data.draw(st.lists(st.sampled_from(forms), max_size=2)) if forms else [])
    wish: Wishes | None = replace(done.ready.wish, force=force)
    for _ in range(2 * len(view.nodes) + 2):
        assert wish is not None
        after = repaired(view, done.plan, wish, errors, aim)
        if after is None:
            return
        assert wish.keep_float.items() <= after.keep_float.items()
        assert after.weights.keys() >= wish.weights.keys()
        for node, qtype in wish.weights.items():
            assert after.weights[node] in (qtype, FLOAT32) or qtype.bits < after.weights[node].bits
        assert not force & (after.keep_float.keys() - wish.keep_float.keys())
        assert (after.keep_float, after.weights) != (wish.keep_float, wish.weights)
        wish = after
    raise AssertionError("it never ends")


@pytest.mark.parametrize("name", CASE)
def test_what_is_accurate_enough_stays(name: str) -> None:
    done = CASE[name]
    errors = errors_of(done, [1e-6])
    assert (
        repaired(done.ready.view, done.plan, done.ready.wish, errors, errors.sqnr(keys_of(done.plan))) is None
    )


def test_the_worst_goes_first_and_no_more_than_needed() -> None:
    done = CASE["int8"]
    keys = keys_of(done.plan)
    noise = {key: np.array([1e-6]) for key in keys} | {keys[0]: np.array([0.1])}
    errors = Errors(("y",), np.array([1.0]), noise, 1, 1)
    after = repaired(done.ready.view, done.plan, done.ready.wish, errors, 40.0)
    assert after is not None
    given_back = after.keep_float.keys() - done.ready.wish.keep_float.keys()
    from qtool.plan.predict import key_of
    from qtool.plan.unfit import touching

    served = {n for s in done.plan.sites if key_of(s) == keys[0] for n in touching(s, done.ready.view)}
    assert given_back == served
    assert all("10.0 dB" in after.keep_float[n] for n in given_back)
