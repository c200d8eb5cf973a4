"""Kernel costs: interpolation of kernel times, and None for nodes that the table does not cover."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtool.errors import DataError
from qtool.plan.kernel_costs import KernelCosts, interpolate, load_kernel_costs
from qtool.tables.forms import Form
from qtool.tables.kernels import EDGES
from qtool.tables.runtimes import RUNTIMES, Tells
from qtool.tables.targets import TARGETS
from tests.graphs import model, node, weights
from tests.plan.test_work import graph_and_shapes

works = st.integers(1, 10**12)
times = st.floats(1e-8, 10.0)
curves = st.dictionaries(works, times, min_size=1, max_size=6).map(lambda d: sorted(d.items()))


@st.composite
def rising(draw: st.DrawFn) -> list[tuple[int, float]]:
    """Points with rising times."""
    curve = draw(curves)
    return list(zip((w for w, _ in curve), sorted(s for _, s in curve), strict=True))


@given(curves, works)
def test_a_time_is_always_positive(points: list[tuple[int, float]], work: int) -> None:
    assert interpolate(points, work) > 0


@given(curves)
def test_interpolation_meets_its_points(points: list[tuple[int, float]]) -> None:
    for work, seconds in points:
        assert interpolate(points, work) == pytest.approx(seconds)


@given(rising(), works, works)
def test_more_work_takes_no_less_time_on_rising_points(
    points: list[tuple[int, float]], one: int, other: int
) -> None:
    less, more = (interpolate(points, work) for work in sorted((one, other)))
    assert less <= more * (1 + 1e-9)


@given(curves, works)
def test_between_two_points_a_time_is_between_theirs(points: list[tuple[int, float]], work: int) -> None:
    for (low, a), (high, b) in pairwise(points):
        if low <= work <= high:
            assert min(a, b) * (1 - 1e-9) <= interpolate(points, work) <= max(a, b) * (1 + 1e-9)


@given(curves, st.integers(1, 1000))
def test_beyond_the_last_point_time_is_proportional_to_work(
    points: list[tuple[int, float]], times: int
) -> None:
    work, seconds = points[-1]
    assert interpolate(points, work * times) == pytest.approx(seconds * times)


@pytest.fixture(scope="module")
def costs() -> KernelCosts:
    return load_kernel_costs(None, "cpu")


def test_targets_with_a_runtime_have_a_table_and_others_an_error() -> None:
    for target in TARGETS.values():
        if target.runtime and RUNTIMES[target.runtime].tells is not Tells.OUTPUTS:
            assert load_kernel_costs(None, target.name).quantize(1000) > 0
        else:
            with pytest.raises(DataError, match=f"'{target.name}'"):
                load_kernel_costs(None, target.name)


def test_edges_of_any_size_cost_at_least_the_dispatch(costs: KernelCosts) -> None:
    for elements in (0, 1, 10**4, 10**9):
        for cost in (costs.quantize, costs.dequantize, costs.border, costs.reorder):
            assert cost(elements) >= costs.table.dispatch


FORMS = {
    "Conv": (node("Conv", ["x", "w"], ["y"]), weights(16, 16, 3, 3), {None, Form.INT8}),
    "MatMul": (
        node("MatMul", ["x", "w"], ["y"]),
        weights(8, 32),
        {None, Form.INT8, Form.DYNAMIC, Form.NBITS},
    ),
    "ConvTranspose": (node("ConvTranspose", ["x", "w"], ["y"]), weights(16, 16, 3, 3), {None}),
    "Mul": (node("Mul", ["x", "x"], ["y"]), weights(1), {None, Form.INT8}),
    "Det": (node("Det", ["x"], ["y"]), weights(1), set()),
}


@pytest.mark.parametrize("op", FORMS)
def test_a_node_costs_something_in_the_forms_that_are_in_the_table(op: str, costs: KernelCosts) -> None:
    made, weight, forms = FORMS[op]
    graph, shapes = graph_and_shapes(model([made], {"x": (1, 16, 8, 8)}, ["y"], {"w": weight}))
    times = {form: costs.seconds(graph[0], form, shapes) for form in (None, *Form)}
    assert {form for form, seconds in times.items() if seconds is not None} == forms
    assert all(s > costs.table.dispatch for s in times.values() if s is not None)
    assert costs.seconds(graph[0], None, {}) is None


def test_a_fused_node_costs_nothing(costs: KernelCosts) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])]
    graph, shapes = graph_and_shapes(model(nodes, {"x": (1, 4, 8, 8)}, ["y"], {"w": weights(4, 4, 3, 3)}))
    assert [costs.seconds(graph[1], form, shapes) for form in (None, Form.INT8)] == [0, 0]


def test_two_bit_blocks_have_no_time(costs: KernelCosts) -> None:
    graph, shapes = graph_and_shapes(
        model([node("MatMul", ["x", "w"], ["y"])], {"x": (4, 32)}, ["y"], {"w": weights(32, 8)})
    )
    assert costs.seconds(graph[0], Form.NBITS, shapes, bits=4) is not None
    assert costs.seconds(graph[0], Form.NBITS, shapes, bits=2) is None


def test_the_table_covers_more_than_edges(costs: KernelCosts) -> None:
    assert {row.row for row in costs.table.rows} > set(EDGES)
