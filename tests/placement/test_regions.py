"""Regions are a partition of what can be quantized."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.placement.regions import Region, find_regions
from qtool.plan.assignment import AssignedGraph, assigned_graph
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import maximal
from tests.plan.flow import ready
from tests.rewrite.zoo import CASES
from tests.tiers import examples

SOME = ["residual", "conv-bn-relu6", "transformer", "conv-relu"]


def full(job: PreparedModel) -> AssignedGraph:
    return assigned_graph(job.task, maximal(job.task))


def actual(case: str, *fused: tuple[str, str]) -> tuple[tuple[Region, ...], list[str], set[str]]:
    job = ready(CASES[case].build())
    able = full(job)
    return find_regions(job.view, able, fused), [n.name or "" for n in job.view.nodes], {*able.chosen}


@pytest.mark.parametrize("case", [c for c in SOME if c in CASES])
@given(data=st.data())
@settings(max_examples=examples(20), deadline=None)
def test_every_quantizable_node_is_in_one_region(case: str, data: st.DataObject) -> None:
    _, order, able = actual(case)
    pair = st.tuples(st.sampled_from(order), st.sampled_from(order))
    pairs = data.draw(st.lists(pair, max_size=3))
    regions, _, _ = actual(case, *pairs)
    nodes = [n for u in regions for n in u.nodes]
    assert sorted(nodes) == sorted(able)
    others = [n for u in regions for n in u.others]
    assert len(others) == len({*others})
    assert not {*others} & able
    for region in regions:
        assert region.name == region.nodes[0]
        assert [*region.nodes] == sorted(region.nodes, key=order.index)
    where = {n: u.name for u in regions for n in (*u.nodes, *u.others)}
    assert all(where[a] == where[b] for a, b in pairs if a in able or b in able)


@pytest.mark.parametrize("case", [c for c in SOME if c in CASES])
def test_a_clamp_is_in_the_region_of_its_producer(case: str) -> None:
    job = ready(CASES[case].build())
    able = full(job)
    regions, _, _ = actual(case)
    where = {n: u.name for u in regions for n in u.nodes}
    for name, candidate in able.chosen.items():
        if (clamp := able.epilogue_of(candidate.node)) is not None:
            assert where[clamp.name or ""] == where[name]
