"""The least energy, against every choice of labels."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.plan.cut import Energy, least

NAMES = ("a", "b", "c", "d", "e")


@st.composite
def energies(draw: st.DrawFn) -> Energy:
    """With forbidden pairs, and labels that are settled; all 1 is always allowed."""
    names = NAMES[: draw(st.integers(1, 5))]
    cost = st.integers(0, 8).map(float)
    costs = {n: (draw(cost | st.just(math.inf)), draw(cost)) for n in names}
    ends = st.tuples(st.sampled_from(names), st.sampled_from(names)).filter(lambda p: p[0] != p[1])
    pairs = draw(st.lists(ends, max_size=6)) if len(names) > 1 else []
    return Energy(costs, tuple((a, b, draw(cost | st.just(math.inf))) for a, b in pairs))


def every(energy: Energy) -> list[dict[str, bool]]:
    names = list(energy.costs)
    return [dict(zip(names, labels, strict=True)) for labels in product((False, True), repeat=len(names))]


@given(energies())
@settings(max_examples=300, deadline=None)
def test_it_is_the_least_of_all(energy: Energy) -> None:
    found = least(energy)
    assert found.keys() == energy.costs.keys()
    assert energy.of(found) == pytest.approx(min(map(energy.of, every(energy))))


@given(energies())
@settings(max_examples=300, deadline=None)
def test_of_choices_that_cost_the_same_it_has_the_fewest_ones(energy: Energy) -> None:
    # With this one, costs are rounded to what they are.
    energy = Energy({**energy.costs, "z": (8.0, 0.0)}, energy.pairs)
    best = min(map(energy.of, every(energy)))
    fewest = min(sum(labels.values()) for labels in every(energy) if energy.of(labels) == best)
    assert sum(least(energy).values()) == fewest


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_unit_of_costs_is_of_no_account(scale: float) -> None:
    energy = Energy({"a": (3 * scale, 0.0), "b": (0.0, 2 * scale)}, (("b", "a", 2.5 * scale),))
    assert least(energy) == {"a": True, "b": True}


def test_nothing_costs_nothing() -> None:
    assert least(Energy({})) == {}
    assert least(Energy({"a": (0.0, 0.0)})) == {"a": False}


def test_what_is_forbidden_is_infinite() -> None:
    energy = Energy({"a": (0.0, 1.0), "b": (0.0, 1.0)}, (("a", "b", math.inf),))
    assert energy.of({"a": False, "b": True}) == math.inf
    assert energy.of({"a": True, "b": True}) == 2.0
