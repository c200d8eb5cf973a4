"""Steps of recovery: kept where the error falls, named where they are not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qtool import recovering
from qtool.data.memory import InMemory
from qtool.errors import UsageError
from qtool.job import open_job
from qtool.numerics.quantize import quantize
from qtool.options import Options, silent
from qtool.plan.model import WEIGHTS, Plan
from qtool.planning import Planned, Planner
from qtool.recovering import Given, recovered, wanted
from qtool.tables.recoveries import RECOVERIES
from tests.rewrite.zoo import CASES


def planned(case: str, recover: str = "gptq") -> tuple[object, Planned, InMemory]:
    row = CASES[case]
    samples = [s for _ in range(4) for s in row.samples()]
    job = open_job(row.build(), Options(threads=1, recover=recover))
    source = InMemory(samples, len(samples))
    return job, Planner(job, source, silent).plan(job.wish), source


@pytest.mark.parametrize("case", ["residual", "transformer"])
def test_the_error_never_rises(case: str) -> None:
    job, plan, source = planned(case)
    better, gains = recovered(job, plan, source, source, silent)  # type: ignore[arg-type]
    for gain in gains:
        assert gain.kept == (better.plan != plan.plan)
        assert not gain.kept or gain.after > gain.before


def test_a_step_that_harms_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(given: Given, plan: Plan) -> Plan:
        return replace(
            plan,
            sites=tuple(
                replace(
                    s,
                    integers=np.ones_like(
                        quantize(_array(given, s.value), s.qparams, s.spec.qtype, s.spec.granularity)
                    ),
                )
                if s.kind in WEIGHTS and s.qparams is not None
                else s
                for s in plan.sites
            ),
        )

    def _array(given: Given, name: str) -> np.ndarray:
        value = given.job.view.values[name].const_value
        assert value is not None
        return value.numpy()

    monkeypatch.setattr(recovering, "_STEPS", {"gptq": spoilt})
    job, plan, source = planned("residual")
    after, (gain,) = recovered(job, plan, source, source, silent)  # type: ignore[arg-type]
    assert not gain.kept
    assert gain.after < gain.before
    assert after.plan is plan.plan


@pytest.mark.parametrize("without", ["calib", "held_out"])
def test_without_samples_nothing_is_done(without: str) -> None:
    job, plan, source = planned("residual")
    given = {"calib": source, "held_out": source, without: None}
    assert recovered(job, plan, **given, progress=silent) == (plan, ())  # type: ignore[arg-type]


def test_none_does_nothing() -> None:
    job, plan, source = planned("residual", "none")
    assert recovered(job, plan, source, source, silent) == (plan, ())  # type: ignore[arg-type]


def test_names() -> None:
    assert wanted("auto") == frozenset(RECOVERIES)
    assert wanted("none") == frozenset()
    assert wanted("gptq, columns") == {"gptq", "columns"}
    with pytest.raises(UsageError) as caught:
        wanted("gtpq")
    assert "gptq" in caught.value.hint
