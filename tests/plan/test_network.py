"""What labels cost: the shared Q, DQ and scales are as cheap as the labels let them be."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings

from qtool.plan.model import Wishes
from qtool.plan.network import Ends, Network, Prices, network
from qtool.plan.place import widest
from qtool.plan.predict import Errors, keys_of
from qtool.plan.units import units_of
from tests.plan.flow import Settled, ready, settled
from tests.plan.networks import networks, subsets
from tests.rewrite.zoo import CASES


@given(networks())
@settings(max_examples=150, deadline=None)
def test_time_and_noise_are_the_least_that_the_labels_allow(found: Network) -> None:
    weight = 3.0
    energy = found.energy(weight)
    rest = [name for name in found.times if name not in {u.name for u in found.units}]
    for int8 in subsets(found):
        labels = {u.name: u.name in int8 for u in found.units}
        best = min(
            energy.of(labels | dict(zip(rest, chosen, strict=True)))
            for chosen in product((False, True), repeat=len(rest))
        )
        noise = found.noise_of(int8) - found.base
        assert found.seconds(int8) + weight * noise == pytest.approx(best)


@given(networks())
@settings(max_examples=100, deadline=None)
def test_more_in_int8_is_never_less_noise(found: Network) -> None:
    for int8 in subsets(found):
        for unit in found.units:
            assert found.noise_of(int8 | {unit.name}) >= found.noise_of(int8)


@given(networks())
@settings(max_examples=100, deadline=None)
def test_the_noise_of_a_unit_is_what_it_alone_brings(found: Network) -> None:
    for unit in found.units:
        alone = found.noise_of({unit.name}) - found.base
        assert found.noise(unit.name) == pytest.approx(alone)


def ends(case: str) -> tuple[Settled, Settled]:
    """A case with all in int8 that could be, and with all in float."""
    row = CASES[case]
    job = ready(row.build())
    names = tuple(widest(job.view, job.scheme, job.wish).chosen)
    return (
        settled(row.build(), row.samples(), include=names),
        settled(row.build(), row.samples(), exclude=names),
    )


def made(case: str) -> tuple[Network, Settled]:
    """A network whose units take 3 s in float and 1 s in int8; a Q takes 10 s, a DQ 100 s."""
    full, floats = ends(case)
    placed = replace(widest(full.ready.view, full.ready.scheme, full.ready.wish), wishes=Wishes({}))
    units = units_of(full.ready.view, placed)
    keys = dict.fromkeys((*keys_of(full.plan), *keys_of(floats.plan)), np.array([0.01]))
    errors = Errors(("y",), np.array([1.0]), keys, 1, 1)
    values = full.ready.view.values
    prices = Prices(
        {u.name: (3.0, 1.0) for u in units}, dict.fromkeys(values, 10.0), dict.fromkeys(values, 100.0), errors
    )
    return network(full.ready.view, placed, Ends(full.plan, floats.plan), units, prices), full


@pytest.mark.parametrize("case", ["residual", "conv-bn-relu6", "transformer"])
def test_of_a_model_the_ends_cost_what_they_should(case: str) -> None:
    found, _ = made(case)
    assert found.seconds(()) == 3.0 * len(found.units), "in float nothing is between the units"
    assert found.noise_of(()) == pytest.approx(found.base)
    every = frozenset(u.name for u in found.units)
    between = found.seconds(every) - 1.0 * len(found.units)
    assert between > 0
    assert between % 10 == pytest.approx(0), "a whole number of Qs and DQs"


@pytest.mark.parametrize("case", ["residual", "conv-bn-relu6"])
def test_one_unit_of_a_model_pays_for_its_q_and_its_dq(case: str) -> None:
    found, _ = made(case)
    for unit in found.units:
        more = found.seconds({unit.name}) - found.seconds(()) + 2.0
        assert more > 0
        assert more % 10 == pytest.approx(0)


def test_what_is_forced_is_in_int8_at_any_price() -> None:
    found, _ = made("residual")
    name = found.units[0].name
    forced = replace(found, forced=frozenset({name}))
    assert forced.energy(1e12).costs[name][0] == float("inf")
