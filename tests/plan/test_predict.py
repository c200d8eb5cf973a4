"""Predicted errors: noise adds up, and the worst output counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qtool.plan.model import OBSERVED, WEIGHTS
from qtool.plan.predict import TensorNoise, key_of, keys_of
from tests.plan.flow import candidate
from tests.rewrite.zoo import CASES

ERRORS = TensorNoise(
    ("a", "b"),
    np.array([100.0, 10.0]),
    {"x": np.array([1.0, 0.0]), "y": np.array([1.0, 1.0]), "quiet": np.zeros(2)},
    samples=2,
    passes=8,
)


@pytest.mark.parametrize(
    ("keys", "db"),
    [
        ([], math.inf), (["quiet"], math.inf), (["x"], 20.0), (["y"], 10.0),
        (["x", "y"], 10.0), (["x", "unknown"], 20.0), (["unknown"], math.inf),
    ],
)  # fmt: skip
def test_noise_adds_up_and_the_worst_output_counts(keys: list[str], db: float) -> None:
    assert ERRORS.sqnr(keys) == pytest.approx(db)


def test_a_share_of_the_signal_is_summed_over_outputs() -> None:
    assert ERRORS.relative("y") == pytest.approx(0.01 + 0.1)
    assert ERRORS.relative("unknown") == 0.0


def test_an_output_of_zeros_is_left_out() -> None:
    errors = TensorNoise(("a",), np.array([0.0]), {"x": np.array([0.0])}, 1, 1)
    assert errors.relative("x") == 0.0
    assert errors.sqnr(["x"]) == math.inf


@pytest.mark.parametrize("case", ["residual", "transformer", "conv-bn-relu6"])
def test_sites_that_share_a_scale_have_one_key(case: str) -> None:
    row = CASES[case]
    plan = candidate(row.build(), row.samples()).plan
    keys = keys_of(plan)
    assert len(keys) == len(set(keys))
    measured = [s for s in plan.sites if s.kind in OBSERVED or s.kind in WEIGHTS]
    assert {key_of(s) for s in measured} == set(keys)
    for site in measured:
        assert all(
            key_of(other) == key_of(site) for other in measured if site.group and other.group == site.group
        )
