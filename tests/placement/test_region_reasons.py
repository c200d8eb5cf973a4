"""Every region has a reason, and the form that the plan gives it."""

from __future__ import annotations

import math

import pytest

from qtool.placement.network import Network, noise_db
from qtool.placement.region_reasons import region_notes, why_float
from qtool.placement.regions import Region
from qtool.tables.reasons import Code
from tests.placement.test_network import made

A, B = Region("a", ("a",)), Region("b", ("b",))


@pytest.mark.parametrize(
    ("times", "noise", "weight", "code"),
    [
        ((1e-6, 2e-6), 0.0, 0.0, Code.NOT_FASTER),
        ((2e-6, 1e-6), 0.01, 1.0, Code.ACCURACY),
        ((2e-6, 1e-6), 0.01, 1e-9, Code.NEIGHBOURS),
    ],
)
def test_why_a_region_is_in_float(
    times: tuple[float, float], noise: float, weight: float, code: Code
) -> None:
    network = Network((A,), {"a": times}, {"a": noise})
    actual = why_float(A, network, weight)
    assert actual.code is code
    figure = {Code.NOT_FASTER: "2.0 us int8", Code.ACCURACY: "20.0 dB", Code.NEIGHBOURS: "1.0 us"}[code]
    assert figure in str(actual)


@pytest.mark.parametrize("case", ["residual", "conv-bn-relu6"])
def test_every_region_of_a_plan_is_noted(case: str) -> None:
    network, done = made(case)
    actual = region_notes(network, done.plan, done.model.view)
    assert [n.nodes for n in actual] == [u.nodes for u in network.regions]
    assert [n.quantized for n in actual] == [
        u.name in network.int8_regions(done.plan) for u in network.regions
    ]
    for note in actual:
        assert note.ops
        assert note.why or not note.quantized
        assert (note.float_us, note.int8_us) == pytest.approx((3e6, network.times[note.nodes[0]][1] * 1e6))


@pytest.mark.parametrize(("noise", "db"), [(0.0, math.inf), (1.0, 0.0), (0.001, 30.0)])
def test_noise_in_decibels(noise: float, db: float) -> None:
    assert noise_db(noise) == pytest.approx(db)
