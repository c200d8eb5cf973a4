"""AdaRound: no row gets worse, scales stay, and replays are exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qtool.graph.save import to_bytes
from qtool.plan.model import WEIGHTS
from qtool.plan.serial import from_json, to_json
from qtool.plan.validate import validate_plan
from qtool.recover.adaround import learn_rounding
from qtool.rewrite.write import rewrite
from tests.graphs import model, node, rng
from tests.plan.flow import candidate
from tests.recover.oracle import memory
from tests.recover.test_gptq import better, convolutions, images, layer_errors
from tests.rewrite.flow import run, sqnr
from tests.rewrite.zoo import CASES
from tests.tiers import in_turn

FORMS: tuple[dict[str, Any], ...] = ({"mode": "static"}, {"mode": "weight-only", "bits": 4})


@pytest.mark.parametrize(("form", "start"), in_turn(FORMS, ["nearest", "gptq"]), ids=str)
def test_no_row_of_any_weight_gets_worse(form: dict[str, Any], start: str) -> None:
    samples = images(4)
    done = candidate(convolutions(), samples, include=["*"], **form)
    first = better(done, samples) if start == "gptq" else done.plan
    plan = learn_rounding(done.model.view, first, memory(samples), threads=1)
    before, after = layer_errors(done, first, samples), layer_errors(done, plan, samples)
    assert before and before.keys() == after.keys()
    for name, old in before.items():
        assert (after[name] <= old * (1 + 1e-4) + 1e-9).all(), name
    if start == "nearest":
        assert sum(a.sum() for a in after.values()) < 0.9 * sum(b.sum() for b in before.values())


@pytest.mark.parametrize(("case", "form"), in_turn(["transformer", "residual"], FORMS), ids=str)
def test_only_integers_change_and_a_replay_writes_the_same(case: str, form: dict[str, Any]) -> None:
    row = CASES[case]
    done = candidate(row.build(), row.samples(), **form)
    plan = learn_rounding(done.model.view, done.plan, memory(row.samples()), threads=1)
    assert tuple(replace(s, integers=None) for s in plan.sites) == done.plan.sites
    assert all(s.kind in WEIGHTS for s in plan.sites if s.integers is not None)
    assert not validate_plan(plan, done.model.view)
    back = from_json(to_json(plan), "plan.json")
    written = to_bytes(rewrite(done.model.model, plan))
    assert to_bytes(rewrite(done.model.model, back)) == written
    run(written, row.samples())


def test_int4_weights_improve_the_output() -> None:
    random = rng(8)
    mixing = random.normal(size=(12, 64))
    w = (random.normal(size=(64, 48)) / 8).astype(np.float32)
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"y": ["n", 48]}, {"w": w})

    def rows(count: int) -> list[dict[str, np.ndarray]]:
        return [{"x": (random.normal(size=(32, 12)) @ mixing).astype(np.float32)} for _ in range(count)]

    done = candidate(made, rows(8), mode="weight-only", bits=4, block=32)
    plan, held_out = learn_rounding(done.model.view, done.plan, memory(rows(8)), threads=1), rows(4)
    floats, before, after = (
        run(to_bytes(m), held_out)
        for m in (done.model.model, rewrite(done.model.model, done.plan), rewrite(done.model.model, plan))
    )
    assert sqnr(floats, after) > sqnr(floats, before) + 2
