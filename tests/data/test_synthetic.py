"""random:N: the numbers of each type, and inputs that random numbers can't make up."""

from __future__ import annotations

import numpy as np
import pytest

from qtool.data.model_inputs import ModelInput
from tests.data.helpers import arrays, assert_positions, misused, model_inputs, names, source

MIXED = (
    model_inputs(x=("N", 400))
    | model_inputs("int64", ids=(1, 500))
    | model_inputs("bool", mask=(300,))
    | model_inputs("float16", h=())
)


def test_random_numbers_fit_their_type() -> None:
    made = arrays(source("random:3", MIXED))
    assert [{n: (a.dtype, a.shape) for n, a in s.items()} for s in made] == 3 * [
        {
            "x": ("float32", (1, 400)),
            "ids": ("int64", (1, 500)),
            "mask": ("bool", (300,)),
            "h": ("float16", ()),
        }
    ]
    for sample in made:
        assert abs(sample["x"].mean()) < 0.2
        assert 0.8 < sample["x"].std() < 1.2
        assert set(sample["ids"].reshape(-1).tolist()) == set(range(10))
        assert set(sample["mask"].tolist()) == {False, True}
    assert not np.array_equal(made[0]["x"], made[1]["x"])


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    result = source("random:9", MIXED)
    assert names(result) == [str(k) for k in range(9)]
    assert_positions(result)
    np.testing.assert_array_equal(arrays(result)[1]["x"], arrays(source("random:2", MIXED))[1]["x"])
    np.testing.assert_array_equal(arrays(result)[1]["x"], arrays(source("random:2", MIXED, seed=0))[1]["x"])
    assert not np.array_equal(arrays(result)[1]["x"], arrays(source("random:2", MIXED, seed=1))[1]["x"])


def test_random_samples_are_marked_as_random() -> None:
    traits = source("random:1", MIXED, seed=7).traits
    assert traits.synthetic
    assert "--seed 7" in traits.notes[0]
    assert any("integers 0..9" in line for line in traits.notes)


def test_filled_inputs_are_not_made_up() -> None:
    (got,) = arrays(source("random:1", model_inputs(x=(1, 2), s=(1,)), fill={"s": 5}))
    assert got["s"].tolist() == [5]


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "1.5", "1e3", " 4", "٣", "9" * 30, "10000001", "4:5"])
def test_a_number_of_samples_is_needed(count: str) -> None:
    error = misused(lambda: source(f"random:{count}", MIXED))
    assert "how many samples?" in error.message
    assert "random:32" in error.hint


UNKNOWN: dict[str, tuple[ModelInput, str, str]] = {
    "open": (ModelInput("x", (None, 3, "h", "w"), "float32"), "leaves the shape of the input 'x' open", "--shape x=1,3,16,16"),
    "of any rank": (ModelInput("x", None, "float32"), "open", "--shape x=1,3,224,224"),
    "text": (ModelInput("x", (1,), "str"), "hold no strings", ".csv"),
    "a type that numpy lacks": (ModelInput("x", (1,), ""), "numpy lacks", ""),
    "too large": (ModelInput("x", (1, 1 << 40), "float32"), "too large", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", UNKNOWN)
def test_inputs_that_can_not_be_made_up_are_refused(what: str) -> None:
    port, message, hint = UNKNOWN[what]
    error = misused(lambda: source("random:4", {"x": port}))
    assert message in error.message
    assert hint in error.hint


def test_a_shape_settles_open_axes() -> None:
    wanted = model_inputs(x=("N", "T"))
    assert arrays(source("random:1", wanted, shape={"x": (2, 5)}))[0]["x"].shape == (2, 5)
    assert arrays(source("random:1", model_inputs(x=None), shape={"": (4,)}))[0]["x"].shape == (4,)
