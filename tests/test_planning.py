"""Planners that remember: integers of weights that keep their scales, and models with constants scaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qtool.data.memory import InMemory
from qtool.graph.save import to_bytes
from qtool.graph.view import float_constant
from qtool.job import open_job
from qtool.numerics.qparams import QParams
from qtool.options import Options, silent
from qtool.plan.integers import integers_of
from qtool.plan.model import WEIGHTS, OutlierColumns, Plan, Scaled, Site
from qtool.plan.serial import from_json, to_json
from qtool.planning import Planned, Planner
from qtool.recover.gptq import improved
from qtool.rewrite.write import rewrite
from tests.outliers import proto, samples
from tests.recover.whole import memory
from tests.rewrite.flow import run
from tests.rewrite.zoo import CASES


def planned(case: str, **options: object) -> tuple[Planned, InMemory]:
    row = CASES[case]
    source = memory(row.samples())
    job = open_job(row.build(), Options(threads=1, **options))  # type: ignore[arg-type]
    return Planner(job, source, silent).plan(job.wish), source


def other_integers(done: Planned) -> Planned:
    """Every weight one less, as far as its type goes."""

    def lower(site: Site) -> Site:
        array = float_constant(done.job.view.values[site.value])
        if site.kind not in WEIGHTS or array is None:
            return site
        low = np.maximum(integers_of(site, array).astype(np.int16) - 1, site.spec.qtype.qmin)
        return replace(site, integers=low.astype(site.spec.qtype.dtype))

    return replace(done, plan=replace(done.plan, sites=tuple(map(lower, done.plan.sites))))


def integers(plan: Plan) -> dict[str, np.ndarray]:
    return {f"{s.value} {s.spec}": s.integers for s in plan.sites if s.integers is not None}


@pytest.mark.parametrize("options", [{}, {"mode": "dynamic"}, {"mode": "weight-only", "bits": 4}], ids=str)
@pytest.mark.parametrize("case", ["residual", "transformer", "if-weights", "shared-both-ways"])
def test_integers_that_are_kept_are_in_every_plan_after(case: str, options: dict[str, object]) -> None:
    done, _ = planned(case, **options)
    lower = other_integers(done)
    done.maker.keep(lower)
    again = done.maker.plan(done.wish).plan
    wanted, found = integers(lower.plan), integers(again)
    assert wanted and wanted.keys() == found.keys()
    assert all(np.array_equal(found[name], array) for name, array in wanted.items())
    assert again == lower.plan
    some = dict.fromkeys(list(done.plan.forms)[:1], "asked")
    less = done.maker.plan(replace(done.wish, keep_float={**done.wish.keep_float, **some})).plan
    assert all(
        np.array_equal(wanted[name], array) for name, array in integers(less).items() if name in wanted
    )


def test_scales_that_came_with_the_integers_are_kept_too() -> None:
    done, source = planned("transformer", mode="weight-only", bits=4)
    better = replace(done, plan=improved(done.job.view, done.plan, source, threads=1))
    done.maker.keep(better)
    again = done.maker.plan(done.wish).plan
    assert again.sites == better.plan.sites
    assert to_bytes(rewrite(done.job.prepared.model, again)) == to_bytes(
        rewrite(done.job.prepared.model, better.plan)
    )


def test_a_weight_of_another_scale_is_rounded_anew() -> None:
    done, _ = planned("residual")
    done.maker.keep(other_integers(done))
    name = next(s.value for s in done.plan.sites if s.kind in WEIGHTS)
    scales = {k: (replace_scale(b), s) for k, (b, s) in done.maker._rounded.items() if k[0] == name}
    done.maker._rounded |= scales
    found = done.maker.plan(done.wish).plan
    assert next(s for s in found.sites if s.value == name).integers is None


def replace_scale(params: QParams | None) -> QParams | None:
    return None if params is None else replace(params, scale=params.scale * 2)


def test_products_with_columns_spared_have_weights_of_their_own() -> None:
    source = memory(samples())
    job = open_job(proto(), Options(threads=1))
    planner = Planner(job, source, silent)
    done = planner.plan(job.wish)
    planner.keep(other_integers(done))
    spared = {"h": OutlierColumns((5, 40), -1.5, 1.5)}
    found = planner.plan(replace(job.wish, spared=spared)).plan
    if found.outlier_columns:
        assert integers(found) == {}
    assert integers(planner.plan(job.wish).plan), "of plans without, they are those that are kept"


def test_nothing_kept_changes_nothing() -> None:
    done, _ = planned("residual")
    done.maker.keep(done)
    assert done.maker.plan(done.wish).plan == done.plan


SCALED = {"w0": (Scaled(1, (0.5, 2.0) * 20),), "b0": (Scaled(-1, (0.5, 2.0) * 20),)}
BACK = {n: tuple(Scaled(s.axis, tuple(1 / f for f in s.factors)) for s in of) for n, of in SCALED.items()}


def test_a_planner_for_a_scaled_model_knows_nothing_of_the_other() -> None:
    done, source = planned("mlp-matmul")
    other = done.maker.rescaled(SCALED)
    found = other.plan(done.wish)
    assert found.job.scaled == SCALED and found.plan.scaled == SCALED
    assert found.plan.model_sha256 == done.plan.model_sha256
    fresh = Planner(done.job.rescaled(SCALED), source, silent).plan(done.wish)
    assert found.plan == fresh.plan
    assert done.maker.plan(done.wish).plan == done.plan and done.plan.scaled == {}


def test_scaled_twice_is_scaled_by_both() -> None:
    done, _ = planned("mlp-matmul")
    back = done.maker.rescaled(SCALED).rescaled(BACK)
    assert {n: len(of) for n, of in back.job.scaled.items()} == {"w0": 2, "b0": 2}
    assert to_bytes(back.job.prepared.model) == to_bytes(done.job.prepared.model)
    assert back.plan(done.wish).plan.sites == done.plan.sites


def test_a_scaled_plan_is_replayed_to_the_byte() -> None:
    done, _ = planned("mlp-matmul")
    found = done.maker.rescaled(SCALED).plan(done.wish)
    written = to_bytes(rewrite(found.job.prepared.model, found.plan))
    plan = from_json(to_json(found.plan), "plan.json")
    job = open_job(CASES["mlp-matmul"].build(), Options(threads=1, plan=plan))
    assert to_bytes(rewrite(job.prepared.model, plan)) == written
    run(written, CASES["mlp-matmul"].samples())


def test_no_factors_are_the_same_job() -> None:
    done, _ = planned("mlp-matmul")
    assert done.job.rescaled({}) is done.job
