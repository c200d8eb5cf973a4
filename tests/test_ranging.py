"""Ranges by what they make the outputs err: narrower where a sample is out of line, else as they were."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qtool.data.memory import InMemory
from qtool.graph.save import to_bytes
from qtool.graph.view import View
from qtool.job import open_job
from qtool.options import Options, silent
from qtool.plan.model import Kind, Plan
from qtool.planning import Planned, Planner
from qtool.ranging import narrowed
from qtool.rewrite.write import rewrite
from tests.graphs import node, rng, weights
from tests.plan.build import model
from tests.recover.whole import memory
from tests.rewrite.flow import run, sqnr
from tests.rewrite.zoo import CASES


def proto() -> onnx.ModelProto:
    return model(
        [
            node("MatMul", ["x", "w0"], ["a"]),
            node("Tanh", ["a"], ["t"]),
            node("MatMul", ["t", "w1"], ["y"]),
        ],
        {"x": ["N", 64]},
        ["y"],
        {"w0": weights(64, 64), "w1": weights(64, 48, seed=1)},
    )


def rows(count: int, seed: int, outlier: float = 0.0) -> InMemory:
    """Samples of which, where asked for, one value of one is so large."""
    random = rng(seed)
    made = [{"x": random.uniform(-1, 1, (8, 64)).astype(np.float32)} for _ in range(count)]
    if outlier:
        made[0]["x"][0, 0] = outlier
    return memory(made)


def planned(calib: InMemory, **options: object) -> Planned:
    job = open_job(proto(), Options(threads=1, **options))  # type: ignore[arg-type]
    return Planner(job, calib, silent).plan(job.wish)


def scales(plan: Plan) -> dict[str, float]:
    return {s.value: float(s.qparams.scale) for s in plan.sites if s.kind is Kind.ACTIVATION and s.qparams}


@pytest.mark.parametrize("outlier", [6.0, -10.0])
def test_a_sample_out_of_line_no_longer_sets_the_range(outlier: float) -> None:
    calib, judged, held_out = rows(24, 1, outlier), rows(8, 2), rows(8, 3)
    before = planned(calib)
    after = narrowed(before, calib, judged, silent)
    assert scales(after.plan)["x"] < 0.5 * scales(before.plan)["x"]
    samples = [dict(s.inputs) for s in held_out.read()]
    floats, old, new = (
        run(to_bytes(m), samples)  # type: ignore[arg-type]
        for m in (
            before.job.prepared.model,
            rewrite(before.job.prepared.model, before.plan),
            rewrite(before.job.prepared.model, after.plan),
        )
    )
    assert sqnr(floats, new) > sqnr(floats, old) + 3


def test_what_was_chosen_is_wished_for_and_made_again() -> None:
    calib, judged = rows(24, 1, 8.0), rows(8, 2)
    before = planned(calib)
    after = narrowed(before, calib, judged, silent)
    assert after.plan.resolved and after.wish.bounds.keys() <= scales(before.plan).keys()
    assert "x" in after.wish.bounds
    again = before.maker.plan(after.wish)
    assert again.plan.sites == after.plan.sites
    assert after.plan.forms == before.plan.forms and after.plan.units == before.plan.units


def test_where_all_ranges_are_right_the_plan_stays_as_it_is() -> None:
    """Uniform numbers: what is cut off costs more than a narrower range wins."""
    calib = rows(24, 1)
    before = planned(calib)
    after = narrowed(before, calib, rows(8, 2), silent)
    unchanged = scales(before.plan)["x"] == scales(after.plan)["x"]
    assert unchanged
    assert after is before or "x" not in after.wish.bounds


@pytest.mark.parametrize("options", [{"mode": "weight-only"}, {"mode": "dynamic"}], ids=str)
def test_without_ranges_there_is_nothing_to_narrow(options: dict[str, str]) -> None:
    calib = rows(8, 1, 9.0)
    before = planned(calib, **options)
    assert narrowed(before, calib, rows(8, 2), silent) is before


def test_where_nothing_is_loud_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtool.ranging._SHARE", 2.0)
    calib = rows(8, 1, 9.0)
    before = planned(calib)
    assert narrowed(before, calib, rows(8, 2), silent) is before


@pytest.mark.parametrize("case", ["residual", "transformer", "pass-through", "conv-bn-relu6"])
def test_activations_of_one_scale_stay_together(case: str) -> None:
    row = CASES[case]
    job = open_job(row.build(), Options(threads=1))
    source = memory([s for _ in range(2) for s in row.samples()])
    before = Planner(job, source, silent).plan(job.wish)
    after = narrowed(before, source, source, silent)
    groups: dict[str, set[float]] = {}
    for site in after.plan.sites:
        if site.kind is Kind.ACTIVATION and site.group and site.qparams is not None:
            groups.setdefault(site.group, set()).add(float(site.qparams.scale))
    assert all(len(found) == 1 for found in groups.values())
    assert {s.value for s in after.plan.sites} == {s.value for s in before.plan.sites}
    assert View(rewrite(job.prepared.model, after.plan)).nodes
