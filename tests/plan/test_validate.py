"""Plans that were edited by hand, or are for another model, are refused with the problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qtool.commands.prepare import NO_SAMPLES, prepare_model
from qtool.errors import UsageError
from qtool.numerics.qparams import QParams
from qtool.options import Options
from qtool.plan.candidate import Candidate, from_plan
from qtool.plan.model import Kind, Plan, Scaled, Site
from qtool.plan.serial import from_json, to_json
from qtool.plan.validate import validate_plan
from tests.plan.flow import candidate
from tests.rewrite.zoo import CASES


def planned(case: str = "mlp-matmul") -> Candidate:
    row = CASES[case]
    return candidate(row.build(), row.samples())


def replayed(plan: Plan) -> Candidate:
    model = prepare_model(CASES["mlp-matmul"].build(), Options(threads=1, plan=plan), sets=NO_SAMPLES)
    return from_plan(model, plan)


DONE = planned()
CORRECTED = replace(DONE.plan, corrections={"b0": (0.5,) * 40})


def with_site(plan: Plan, kind: Kind, change: Callable[[Site], Site]) -> Plan:
    first = next(s for s in plan.sites if s.kind is kind)
    return replace(plan, sites=tuple(change(s) if s is first else s for s in plan.sites))


@pytest.mark.parametrize(
    "corrections",
    [{}, {"b0": (0.5,) * 40}, {"b0": (0.0,) * 40, "b1": (-1.0,) * 24}],
    ids=lambda c: str(len(c)),
)
def test_corrections_of_biases_fit(corrections: dict[str, tuple[float, ...]]) -> None:
    assert validate_plan(replace(DONE.plan, corrections=corrections), DONE.model.view) == ""


DAMAGED: dict[str, Plan] = {
    "a bias of another size": replace(DONE.plan, corrections={"b0": (0.5,) * 39}),
    "a bias of no size": replace(DONE.plan, corrections={"b0": ()}),
    "no bias at all": replace(DONE.plan, corrections={"b7": (0.5,) * 40}),
    "what is fed": replace(DONE.plan, corrections={"x": (0.5,) * 4}),
    "what is made": replace(DONE.plan, corrections={"h": (0.5,) * 40}),
    "an unknown node": replace(DONE.plan, forms={**DONE.plan.forms, "nowhere": next(iter(DONE.plan.forms.values()))}),
    "an unknown value": with_site(DONE.plan, Kind.ACTIVATION, lambda s: replace(s, value="nowhere")),
    "an unknown reader": with_site(DONE.plan, Kind.WEIGHT, lambda s: replace(s, uses=(("nowhere", 1),))),
    "no scale": with_site(DONE.plan, Kind.WEIGHT, lambda s: replace(s, qparams=None)),
    "integers of an activation": with_site(DONE.plan, Kind.ACTIVATION, lambda s: replace(s, integers=np.zeros(3, np.uint8))),
    "integers of another shape": with_site(DONE.plan, Kind.WEIGHT, lambda s: replace(s, integers=np.zeros((2, 2), np.int8))),
    "a scale of another shape": with_site(
        DONE.plan, Kind.ACTIVATION, lambda s: replace(s, qparams=QParams(np.ones(3, np.float32), np.zeros(3, np.int64)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_plan_that_does_not_fit_is_refused(damage: str) -> None:
    plan = DAMAGED[damage]
    assert validate_plan(plan, DONE.model.view)
    with pytest.raises(UsageError, match="does not fit"):
        replayed(plan)


def test_the_plan_of_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match="another model"):
        replayed(replace(DONE.plan, model_sha256="0" * 64))


@pytest.mark.parametrize(
    "scaled",
    [{"w7": (Scaled(0, (2.0,)),)}, {"w0": (Scaled(2, (2.0,) * 40),)}, {"w0": (Scaled(1, (2.0,) * 39),)},
     {"x": (Scaled(0, (2.0,)),)}, {"w0": (Scaled(0, ()),)}],
    ids=["absent", "no such axis", "too few", "fed", "none"],
)  # fmt: skip
def test_factors_that_do_not_fit_are_refused(scaled: dict[str, tuple[Scaled, ...]]) -> None:
    plan = replace(DONE.plan, scaled=scaled)
    with pytest.raises(UsageError, match="does not fit"):
        replayed(plan)


def test_a_plan_with_corrections_and_factors_is_replayed() -> None:
    scaled = {"w0": (Scaled(1, (2.0,) * 40),), "b0": (Scaled(-1, (2.0,) * 40),)}
    plan = from_json(to_json(replace(CORRECTED, scaled=scaled)), "plan.json")
    done = replayed(plan)
    assert done.model.task.scaled == scaled
    assert done.plan == plan


BAD: dict[str, tuple[str, Any]] = {
    "infinities": ("corrections", {"b0": ["inf"]}),
    "no powers": ("scaled", {"w0": [{"axis": 0, "factors": [3.0]}]}),
    "negative": ("scaled", {"w0": [{"axis": 0, "factors": [-2.0]}]}),
    "zeros": ("scaled", {"w0": [{"axis": 0, "factors": [0.0]}]}),
}


@pytest.mark.parametrize("damage", BAD)
def test_meaningless_fields_are_damage(damage: str) -> None:
    key, value = BAD[damage]
    document = json.loads(to_json(CORRECTED))
    document[key] = value
    with pytest.raises(UsageError, match="damaged"):
        from_json(json.dumps(document), "plan.json")
