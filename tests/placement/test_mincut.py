"""Minimum cuts, against every choice of values and against networkx."""

from __future__ import annotations

import math
from itertools import product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.placement.mincut import CutGraph
from tests.placement.networks import Energy, chain, energy_of, minimize
from tests.tiers import examples

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
@settings(max_examples=examples(300), deadline=None)
def test_the_minimum_is_that_of_all_choices(energy: Energy) -> None:
    actual = minimize(energy)
    assert actual.keys() == energy.costs.keys()
    assert energy.of(actual) == pytest.approx(min(map(energy.of, every(energy))))


@given(energies())
@settings(max_examples=examples(300), deadline=None)
def test_equal_minima_give_the_fewest_ones(energy: Energy) -> None:
    best = min(map(energy.of, every(energy)))
    fewest = min(sum(labels.values()) for labels in every(energy) if energy.of(labels) == best)
    assert sum(minimize(energy).values()) == fewest


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_the_scale_of_costs_does_not_matter(scale: float) -> None:
    energy = Energy({"a": (3 * scale, 0.0), "b": (0.0, 2 * scale)}, (("b", "a", 2.5 * scale),))
    assert minimize(energy) == {"a": True, "b": True}


def test_empty_energies() -> None:
    assert minimize(Energy({})) == {}
    assert minimize(Energy({"a": (0.0, 0.0)})) == {"a": False}


def test_a_forbidden_choice_costs_infinity() -> None:
    energy = Energy({"a": (0.0, 1.0), "b": (0.0, 1.0)}, (("a", "b", math.inf),))
    assert energy.of({"a": False, "b": True}) == math.inf
    assert energy.of({"a": True, "b": True}) == 2.0


def by_networkx(energy: Energy) -> dict[str, bool]:
    """The same minimum cut by an independent solver, with integer costs as large as Python allows."""
    graph = nx.DiGraph()
    graph.add_nodes_from(["source", "sink", *((name,) for name in energy.costs)])
    arcs: dict[tuple[object, object], float] = {}
    for name, (zero, one) in energy.costs.items():
        arcs["source", (name,)] = one - min(zero, one)
        arcs[(name,), "sink"] = zero - min(zero, one)
    for a, b, cost in energy.pairs:
        arcs[(a,), (b,)] = arcs.get(((a,), (b,)), 0.0) + cost
    for (tail, head), cost in arcs.items():
        capacity = {} if math.isinf(cost) else {"capacity": round(math.ldexp(cost, 80))}
        graph.add_edge(tail, head, **capacity)
    _, (zeros, _) = nx.minimum_cut(graph, "source", "sink", flow_func=nx.algorithms.flow.dinitz)
    return {name: (name,) not in zeros for name in energy.costs}


@pytest.mark.parametrize("seed", range(6))
def test_networks_agree_with_networkx(seed: int) -> None:
    network = chain(60, seed)
    for weight in (0.0, 1e2, 1e4, 1e6, 1e9):
        energy = energy_of(network, weight)
        ours, theirs = minimize(energy), by_networkx(energy)
        assert energy.of(ours) == pytest.approx(energy.of(theirs), rel=1e-14)
        assert [ours[r.name] for r in network.regions] == [theirs[r.name] for r in network.regions]


@pytest.mark.parametrize("seed", range(6))
def test_dense_graphs_agree_with_networkx(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"v{i}" for i in range(60)]
    costs = {n: (float(rng.uniform(0, 1)), float(rng.uniform(0, 10.0 ** rng.integers(-9, 2)))) for n in names}
    costs |= dict.fromkeys(names[:3], (math.inf, 1.0))
    ends = [(a, b) for a in names for b in names if a != b and rng.random() < 0.1]
    drawn = rng.choice([0.0, 1e-9, 0.1, 3.0, math.inf], len(ends))
    energy = Energy(costs, tuple((a, b, float(c)) for (a, b), c in zip(ends, drawn, strict=True)))
    ours, theirs = minimize(energy), by_networkx(energy)
    assert energy.of(ours) == pytest.approx(energy.of(theirs), rel=1e-14)
    assert ours == theirs


def test_costs_of_many_magnitudes_are_distinguished() -> None:
    """15 digits between the largest and the least cost: more than maximum_flow's int32 holds."""
    small = {f"s{i}": (1e-12 * (i % 2), 1e-12 * (1 - i % 2)) for i in range(8)}
    labels = minimize(Energy({"large": (1e3, 0.0), **small}))
    assert labels == {"large": True, **{f"s{i}": bool(i % 2) for i in range(8)}}


def test_a_graph_is_used_for_many_costs() -> None:
    graph = CutGraph(2, np.array([0]), np.array([1]), np.array([2.0]))
    for zero, one, expected in [
        ([0.0, 3.0], [1.0, 0.0], [True, True]),
        ([0.0, 3.0], [9.0, 0.0], [False, True]),
        ([0.0, 1.0], [9.0, 0.0], [False, False]),
        ([0.0, 3.0], [1.0, 0.0], [True, True]),
    ]:
        assert graph.minimize(np.array(zero), np.array(one)).tolist() == expected
