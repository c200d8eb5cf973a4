"""Corrections of a plan, added to the biases of what is written: by value, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qtool.graph.save import to_bytes
from qtool.graph.view import float_constant
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.rewrite.write import correct_biases, rewrite
from tests.plan.flow import candidate
from tests.rewrite.flow import run
from tests.rewrite.zoo import CASES


def done_of(case: str, **options: Any) -> Candidate:
    return candidate(CASES[case].build(), CASES[case].samples(), **options)


def with_offsets(plan: Plan, **offsets: np.ndarray) -> Plan:
    return replace(plan, corrections={n: tuple(map(float, o)) for n, o in offsets.items()})


@pytest.mark.parametrize(
    ("case", "name", "size"), [("mlp-matmul", "b0", 40), ("mlp-matmul", "b1", 24), ("all-dead", "b", 16)]
)
def test_a_correction_is_added_and_the_shape_stays(case: str, name: str, size: int) -> None:
    done = done_of(case)
    model = done.model.model.clone()
    before = {n: float_constant(v) for n, v in model.graph.initializers.items()}
    offsets = np.linspace(-1, 1, size, dtype=np.float32)
    correct_biases(model, with_offsets(done.plan, **{name: offsets}))
    for n, old in before.items():
        new = float_constant(model.graph.initializers[n])
        if old is None:
            continue
        assert new is not None and new.shape == old.shape and new.dtype == np.float32
        np.testing.assert_array_equal(new, old + offsets.reshape(old.shape) if n == name else old)


@pytest.mark.parametrize("form", [{"mode": "static"}, {"mode": "dynamic"}, {"mode": "weight-only"}], ids=str)
def test_the_written_outputs_move_by_it(form: dict[str, Any]) -> None:
    """Of the last layer, behind which nothing is rounded."""
    done, fed = done_of("mlp-matmul", **form), CASES["mlp-matmul"].samples()
    offsets = np.linspace(-0.5, 0.5, 24, dtype=np.float32)
    plan = with_offsets(done.plan, b1=offsets)
    before, after = (run(to_bytes(rewrite(done.model.model, p)), fed) for p in (done.plan, plan))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b["y"] - a["y"], np.broadcast_to(offsets, a["y"].shape), atol=1e-3)


def test_without_corrections_nothing_is_touched() -> None:
    done = done_of("mlp-matmul")
    model = done.model.model.clone()
    before = to_bytes(model)
    correct_biases(model, replace(done.plan, corrections={}))
    assert to_bytes(model) == before


@pytest.mark.parametrize(
    ("name", "size"), [("b0", 39), ("b0", 0), ("nothing", 40), ("x", 4)], ids=["few", "none", "absent", "fed"]
)
def test_unknown_biases_are_key_errors(name: str, size: int) -> None:
    done = done_of("mlp-matmul")
    with pytest.raises(KeyError):
        correct_biases(done.model.model.clone(), with_offsets(done.plan, **{name: np.zeros(size)}))
