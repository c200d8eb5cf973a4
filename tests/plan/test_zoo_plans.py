"""Every plan of the model zoo keeps the laws of a plan: scales, groups, biases, uses, validation and JSON."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.candidate import Candidate
from qtool.plan.model import Kind, Site
from qtool.plan.serial import digest, from_json, to_json
from qtool.plan.validate import validate_plan
from qtool.rewrite.write import rewrite
from qtool.tables.modes import MODES
from tests.plan.flow import candidate, sites
from tests.rewrite.zoo import CASES
from tests.targets import COMMON

OTHER_MODES = [m for m in MODES if m != "static"]
# Each case in static mode and in one other mode. Targets take turns, so that each meets every kind of case.
PLANS = [
    (case, mode, COMMON[index % len(COMMON)])
    for index, case in enumerate(CASES)
    for mode in ("static", OTHER_MODES[index % len(OTHER_MODES)])
]


@pytest.mark.parametrize(("case", "mode", "target"), PLANS)
def test_laws(case: str, mode: str, target: str) -> None:
    done = candidate(CASES[case].build(), CASES[case].samples(), target, mode=mode)
    for site in done.plan.sites:
        check_scale(site)
    check_groups(done)
    check_biases(done)
    uses = [u for s in done.plan.sites if s.kind is not Kind.ACTIVATION for u in s.uses or ()]
    assert len(uses) == len(set(uses)), "two sites for one input"
    assert validate_plan(done.plan, done.model.view) == ""
    check_json(done)


def check_scale(site: Site) -> None:
    assert (site.qparams is not None) == site.scaled
    if site.qparams is None:
        return
    scale, zero = site.qparams.scale, site.qparams.zero_point
    assert scale.dtype == np.float32
    assert scale.shape == zero.shape
    assert np.isfinite(scale).all() and (scale > 0).all()
    assert ((site.spec.qtype.qmin <= zero) & (zero <= site.spec.qtype.qmax)).all()


def check_groups(done: Candidate) -> None:
    """Sites of a group share one scale, which covers the range of each within its bounds."""
    shared: dict[str, Site] = {}
    for site in sites(done.plan, Kind.ACTIVATION).values():
        assert site.qparams is not None
        assert shared.setdefault(site.group, site).qparams == site.qparams
        observed, (lo, hi) = done.ranges[site.value], site.bounds
        scale, zero = float(site.qparams.scale), int(site.qparams.zero_point)
        assert (site.spec.qtype.qmin - zero) * scale <= max(observed.lo, lo) + scale
        assert (site.spec.qtype.qmax - zero) * scale >= min(observed.hi, hi) - scale


def check_biases(done: Candidate) -> None:
    """A bias has exactly the product of two float32 scales: the runtime multiplies them itself."""
    activations, nodes = sites(done.plan, Kind.ACTIVATION), done.model.view.node_by_name
    weight_of = {u: s for s in done.plan.sites if s.kind is Kind.WEIGHT for u in s.uses or ()}
    for bias in (s for s in done.plan.sites if s.kind is Kind.BIAS):
        assert bias.scale_from is not None and bias.qparams is not None and bias.uses
        consumer = nodes[bias.uses[0][0]]
        if consumer.op_type == "Add":
            consumer = next(p for v in consumer.inputs if v is not None and (p := v.producer()) is not None)
        assert bias.scale_from[1] == consumer.name
        source, weight = activations[bias.scale_from[0]], weight_of[consumer.name or "", 1]
        assert source.qparams is not None and weight.qparams is not None
        product = np.float32(source.qparams.scale) * weight.qparams.scale.astype(np.float32)
        np.testing.assert_array_equal(bias.qparams.scale, product)


def check_json(done: Candidate) -> None:
    """A plan from a file is equal to the bit, and writes the same model."""
    text = to_json(done.plan)
    back = from_json(text, "plan.json")
    assert to_json(back) == text
    assert digest(back) == digest(done.plan)
    assert back.sites == done.plan.sites and back.edits == done.plan.edits
    assert list(back.forms) == list(done.plan.forms) and list(back.operators) == list(done.plan.operators)
    assert to_bytes(rewrite(done.model.model, back)) == to_bytes(rewrite(done.model.model, done.plan))
