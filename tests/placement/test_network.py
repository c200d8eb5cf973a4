"""The cost of an assignment: shared Q, DQ and scales cost the least that the regions allow."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.placement.build_network import RegionCosts, build_network
from qtool.placement.network import Network
from qtool.placement.regions import Region, find_regions
from qtool.plan.assignment import assigned_graph
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.predict import TensorNoise, keys_of
from qtool.plan.rules import maximal
from tests.placement.networks import energy_of, minimize, networks, subsets
from tests.plan.flow import candidate, prepared
from tests.rewrite.zoo import CASES
from tests.tiers import examples


@given(networks())
@settings(max_examples=examples(150), deadline=None)
def test_time_and_noise_are_the_least_that_the_regions_allow(actual: Network) -> None:
    weight = 3.0
    energy = energy_of(actual, weight)
    rest = [name for name in actual.times if name not in {u.name for u in actual.regions}]
    for int8 in subsets(actual):
        labels = {u.name: u.name in int8 for u in actual.regions}
        best = min(
            energy.of(labels | dict(zip(rest, chosen, strict=True)))
            for chosen in product((False, True), repeat=len(rest))
        )
        noise = actual.noise_of(int8) - actual.base
        assert actual.seconds(int8) + weight * noise == pytest.approx(best)


@given(networks())
@settings(max_examples=examples(100), deadline=None)
def test_more_in_int8_is_never_less_noise(actual: Network) -> None:
    for int8 in subsets(actual):
        for region in actual.regions:
            assert actual.noise_of(int8 | {region.name}) >= actual.noise_of(int8)


@given(networks())
@settings(max_examples=examples(100), deadline=None)
def test_the_noise_of_a_region_is_that_of_it_alone(actual: Network) -> None:
    for region in actual.regions:
        alone = actual.noise_of({region.name}) - actual.base
        assert actual.noise(region.name) == pytest.approx(alone)


@given(networks(), st.data())
@settings(max_examples=examples(150), deadline=None)
def test_the_costs_of_steps_are_those_of_each_assignment(network: Network, data: st.DataObject) -> None:
    int8 = frozenset(data.draw(st.sets(st.sampled_from([r.name for r in network.regions]))))
    moved = data.draw(st.permutations(sorted(int8)))[: data.draw(st.integers(0, len(int8)))]
    seconds, noise = network.costs_of_steps(int8, moved)
    assert len(seconds) == len(noise) == len(moved)
    for step in range(len(moved)):
        after = int8 - {*moved[: step + 1]}
        assert seconds[step] == pytest.approx(network.seconds(after))
        assert noise[step] == pytest.approx(network.noise_of(after))


@given(networks())
@settings(max_examples=examples(150), deadline=None)
def test_the_cut_of_a_network_is_the_least_of_its_energy(actual: Network) -> None:
    for weight in (0.0, 0.5, 8.0):
        labels = minimize(energy_of(actual, weight))
        assert actual.minimize(weight) == {r.name for r in actual.regions if labels[r.name]}


def test_small_noise_is_exact_after_a_large_one_is_gone() -> None:
    regions = tuple(Region(name, (name,)) for name in ("loud", "quiet"))
    network = Network(regions, {"loud": (2.0, 1.0), "quiet": (2.0, 1.0)}, {"loud": 1e9, "quiet": 1e-12})
    _, noise = network.costs_of_steps({"loud", "quiet"}, ["loud"])
    assert noise.tolist() == [1e-12]


def made(case: str) -> tuple[Network, Candidate]:
    """A network whose regions take 3 s in float and 1 s in int8; a Q takes 10 s, a DQ 100 s."""
    row = CASES[case]
    model = prepared(row.build(), row.samples())
    full = make_candidate(model, maximal(model.task))
    floats = candidate(row.build(), row.samples(), exclude=tuple(full.assignment.forms))
    assigned = assigned_graph(model.task, full.assignment)
    regions = find_regions(model.view, assigned)
    keys = dict.fromkeys((*keys_of(full.plan), *keys_of(floats.plan)), np.array([0.01]))
    errors = TensorNoise(("y",), np.array([1.0]), keys, 1, 1)
    values = model.view.values
    costs = RegionCosts(
        {u.name: (3.0, 1.0) for u in regions},
        dict.fromkeys(values, 10.0),
        dict.fromkeys(values, 100.0),
        errors,
    )
    return build_network(model.view, assigned, full.plan, floats.plan, regions, costs), full


@pytest.mark.parametrize("case", ["residual", "conv-bn-relu6", "transformer"])
def test_costs_of_all_float_and_all_int8(case: str) -> None:
    actual, _ = made(case)
    assert actual.seconds(()) == 3.0 * len(actual.regions), "in float nothing is between the regions"
    assert actual.noise_of(()) == pytest.approx(actual.base)
    every = frozenset(u.name for u in actual.regions)
    between = actual.seconds(every) - 1.0 * len(actual.regions)
    assert between > 0
    assert between % 10 == pytest.approx(0), "a whole number of Qs and DQs"


@pytest.mark.parametrize("case", ["residual", "conv-bn-relu6"])
def test_one_region_of_a_model_pays_for_its_q_and_its_dq(case: str) -> None:
    actual, _ = made(case)
    for region in actual.regions:
        more = actual.seconds({region.name}) - actual.seconds(()) + 2.0
        assert more > 0
        assert more % 10 == pytest.approx(0)


def test_a_forced_region_is_in_int8_at_any_cost() -> None:
    actual, _ = made("residual")
    name = actual.regions[0].name
    forced = replace(actual, forced=frozenset({name}))
    assert energy_of(forced, 1e12).costs[name][0] == float("inf")
