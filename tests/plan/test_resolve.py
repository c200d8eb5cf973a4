"""Ranges to scales."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.plan.model import Kind
from qtool.tables.targets import TARGETS
from tests.plan.flow import candidate
from tests.rewrite.zoo import CASES

pytestmark = pytest.mark.parametrize("target", TARGETS)


@pytest.mark.parametrize("case", CASES)
def test_every_site_has_its_scale_finite_and_positive(case: str, target: str) -> None:
    row = CASES[case]
    plan = candidate(row.build(), row.samples(), target).plan
    assert plan.resolved
    for site in plan.sites:
        if site.qparams is not None:
            scale, zero = site.qparams.scale, site.qparams.zero_point
            assert scale.dtype == np.float32
            assert np.isfinite(scale).all()
            assert (scale > 0).all()
            assert scale.shape == zero.shape
            assert (site.spec.qtype.qmin <= zero).all()
            assert (zero <= site.spec.qtype.qmax).all()


@pytest.mark.parametrize("case", CASES)
def test_sites_of_a_group_share_one_scale_that_covers_them_all(case: str, target: str) -> None:
    row = CASES[case]
    done = candidate(row.build(), row.samples(), target)
    activations = [s for s in done.plan.sites if s.kind is Kind.ACTIVATION]
    for site in activations:
        assert site.qparams is not None
        for other in activations:
            if other.group == site.group:
                assert other.qparams is not None
                assert (other.qparams.scale, other.qparams.zero_point) == (
                    site.qparams.scale,
                    site.qparams.zero_point,
                )
        seen, (lo, hi) = done.ranges[site.value], site.bounds
        scale, zero = float(site.qparams.scale), int(site.qparams.zero_point)
        assert (site.spec.qtype.qmin - zero) * scale <= max(seen.lo, lo) + scale
        assert (site.spec.qtype.qmax - zero) * scale >= min(seen.hi, hi) - scale


def test_relu6_never_gets_a_range_beyond_its_clamp(target: str) -> None:
    row = CASES["conv-bn-relu6"]
    big = [{k: v * 100 for k, v in s.items()} for s in row.samples()]
    plan = candidate(row.build(), big, target).plan
    site = next(s for s in plan.sites if s.value == "r1")
    assert site.qparams is not None
    assert int(site.qparams.zero_point) == 0
    assert float(site.qparams.scale) * 255 == pytest.approx(6, rel=1e-6)
