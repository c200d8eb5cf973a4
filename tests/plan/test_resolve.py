"""From ranges to scales, and the integers of weights: writers and plan files keep those of the plan."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qtool.errors import UsageError
from qtool.graph.save import to_bytes
from qtool.graph.view import float_constant
from qtool.plan.candidate import Candidate
from qtool.plan.model import WEIGHTS, Kind, Plan, Site
from qtool.plan.resolve import dequantized, integers_of, weight_params
from qtool.plan.serial import digest, from_json, to_json
from qtool.plan.validate import validate_plan
from qtool.rewrite.write import rewrite
from tests.plan.flow import candidate
from tests.rewrite.zoo import CASES


def weight_of(done: Candidate, site: Site) -> np.ndarray:
    array = float_constant(done.model.view.values[site.value])
    assert array is not None
    return array


def with_integers(done: Candidate, step: int) -> Plan:
    """The plan with every weight's integers spelled out: the nearest, moved by `step`."""

    def spelt(site: Site) -> Site:
        if site.kind not in WEIGHTS:
            return site
        q, qtype = integers_of(site, weight_of(done, site)), site.spec.qtype
        moved = np.clip(q.astype(np.int64) + step, qtype.qmin, qtype.qmax)
        return replace(site, integers=moved.astype(qtype.dtype))

    return replace(done.plan, sites=tuple(spelt(s) for s in done.plan.sites))


def quantize_case(case: str, target: str, form: dict[str, object]) -> Candidate:
    row = CASES[case]
    return candidate(row.build(), row.samples(), target, **form)


# Each case in one form: together every form in which a writer writes a weight.
WRITTEN = [
    ("conv-bn-relu6", "cpu", {"mode": "static"}),
    ("transformer", "generic", {"mode": "dynamic"}),
    ("transformer", "cpu", {"mode": "dynamic"}),
    ("lstm-bidirectional", "cpu-avx2", {"mode": "dynamic"}),
    ("tied-embedding", "generic", {"mode": "weight-only"}),
    ("if-weights", "cpu", {"mode": "weight-only", "bits": 4}),
    ("transformer", "cpu", {"mode": "weight-only", "bits": 4, "prefer": "speed"}),
]


@pytest.mark.parametrize(("case", "target", "form"), WRITTEN, ids=str)
def test_writers_and_plan_files_keep_the_integers_of_a_plan(
    case: str, target: str, form: dict[str, object]
) -> None:
    done = quantize_case(case, target, form)
    plain = to_bytes(rewrite(done.model.model, done.plan))
    assert to_bytes(rewrite(done.model.model, with_integers(done, 0))) == plain
    plan = with_integers(done, 1)
    moved = to_bytes(rewrite(done.model.model, plan))
    assert moved != plain
    back = from_json(to_json(plan), "plan.json")
    assert back.sites == plan.sites
    assert digest(back) == digest(plan) != digest(done.plan)
    assert not validate_plan(back, done.model.view)
    assert to_bytes(rewrite(done.model.model, back)) == moved


@pytest.mark.parametrize("damage", ["range", "length", "base64", "kind", "float"])
def test_damaged_integers_are_refused(damage: str) -> None:
    done = quantize_case("conv-bn-relu6", "cpu", {"mode": "static"})
    document = json.loads(to_json(with_integers(done, 0)))
    site = next(s for s in document["sites"] if s["kind"] == "weight")
    other = next(s for s in document["sites"] if s["kind"] == "activation")
    if damage == "range":
        site["integers"] = {"dtype": "int8", "values": [-128] * 4}
    elif damage == "length":
        site["integers"] = {"dtype": "int8", "values": [1, 2]}
    elif damage == "base64":
        site["integers"]["base64"] = "A" * 7
    elif damage == "kind":
        other["integers"] = {"dtype": "uint8", "values": [1]}
    else:
        site["spec"]["qtype"] = "float32"
    with pytest.raises(UsageError):
        plan = from_json(json.dumps(document), "plan.json")
        if problem := validate_plan(plan, done.model.view):
            raise UsageError(problem)


def test_sites_with_other_integers_are_other_sites() -> None:
    done = quantize_case("conv-bn-relu6", "cpu", {"mode": "static"})
    one, same, other = with_integers(done, 0), with_integers(done, 0), with_integers(done, 1)
    assert one.sites == same.sites
    assert one.sites != other.sites and one.sites != done.plan.sites
    assert {s.value for s in one.sites} == {s.value for s in other.sites}
    assert hash(one.sites[0]) == hash(same.sites[0])


def test_restored_is_what_the_integers_stand_for() -> None:
    done = quantize_case("conv-bn-relu6", "cpu", {"mode": "static"})
    site = next(s for s in with_integers(done, 0).sites if s.kind is Kind.WEIGHT)
    w = weight_of(done, site)
    assert site.qparams is not None
    assert np.abs(dequantized(site, w) - w).max() <= site.qparams.scale.max() / 2 * 1.0001
    alone = replace(site, qparams=None, integers=None)  # then the scale follows from the weight
    assert np.abs(dequantized(alone, w) - w).max() <= weight_params(alone, w).scale.max() / 2 * 1.0001


def test_relu6_never_gets_a_range_beyond_its_clamp() -> None:
    row = CASES["conv-bn-relu6"]
    big = [{k: v * 100 for k, v in s.items()} for s in row.samples()]
    plan = candidate(row.build(), big).plan
    site = next(s for s in plan.sites if s.value == "r1")
    assert site.qparams is not None
    assert int(site.qparams.zero_point) == 0
    assert float(site.qparams.scale) * 255 == pytest.approx(6, rel=1e-6)
