"""Samples against a model's inputs: what is cast, and what is refused, by file and input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from qtool.data.fit import fit
from qtool.data.samples import Sample
from qtool.errors import DataError, ModelError, QtoolError


@dataclass(frozen=True)
class Spec:
    """The runtime's description of an input."""

    shape: list[int | str | None]
    type: str = "tensor(float)"


def fitted(array: object, dtype: str | None = "float32", shape: list | None = None) -> np.ndarray:
    """One array through fit, as input x of a model."""
    made = np.asarray(array)
    spec = Spec(list(made.shape) if shape is None else shape)
    return fit(Sample("7.npz", {"x": made}), {"x": spec}, {"x": dtype}, "calib")["x"]


def refused(array: object, dtype: str | None = "float32", shape: list | None = None) -> QtoolError:
    with pytest.raises(DataError) as caught:
        fitted(array, dtype, shape)
    error = caught.value
    assert error.exit_code == 4
    assert "calib/7.npz" in error.message
    assert "'x'" in error.message
    assert "\n" not in error.message
    return error


def test_arrays_of_the_right_type_are_passed_unchanged() -> None:
    for dtype in ("float32", "float64", "float16", "int8", "uint64", "bool"):
        array = np.array([0, 1, 2]).astype(dtype)
        assert fitted(array, dtype) is array


@pytest.mark.parametrize(
    ("have", "want", "values"),
    [
        ("float64", "float32", [0.1, -2.5]),
        ("float32", "float64", [0.1, -2.5]),
        ("float32", "float16", [0.1, -2.5]),
        ("float16", "float32", [0.1, -2.5]),
        ("int64", "int32", [2**31 - 1, -(2**31)]),
        ("int64", "int8", [127, -128]),
        ("int32", "int64", [5, -5]),
        ("uint8", "float32", [0, 255]),
        ("int64", "float32", [2**24, -(2**24)]),
        ("uint8", "int64", [0, 255]),
        ("bool", "float32", [True, False]),
        ("bool", "int64", [True, False]),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_lossless_casts_are_made(have: str, want: str, values: list) -> None:
    got = fitted(np.array(values, have), want)
    assert got.dtype == want
    np.testing.assert_array_equal(got, np.array(values, have).astype(want))


@pytest.mark.parametrize(
    ("have", "want", "values"),
    [
        ("float32", "int64", [1.0]),
        ("float64", "int32", [1.0]),
        ("float32", "bool", [1.0]),
        ("float32", "uint8", [1.0]),
        ("int64", "bool", [1]),
        ("complex64", "float32", [1.0]),
        ("str", "float32", ["1.0"]),
        ("object", "float32", [1.0]),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_a_type_of_another_kind_is_refused(have: str, want: str, values: list) -> None:
    message = refused(np.array(values, have), want).message
    assert want in message


@pytest.mark.parametrize(
    ("have", "want", "values"),
    [
        ("int64", "int32", [2**31]),
        ("int64", "int8", [200]),
        ("uint8", "int8", [200]),
        ("int64", "float32", [2**24 + 1]),
        ("int32", "float16", [100_000]),
        ("float64", "float32", [1e300]),
        ("float32", "float16", [1e6]),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_a_value_that_does_not_fit_is_refused(have: str, want: str, values: list) -> None:
    assert "does not fit" in refused(np.array(values, have), want).message


@pytest.mark.parametrize("have", ["float16", "float32", "float64"])
def test_nan_and_infinity_are_refused_but_in_a_mask(have: str) -> None:
    assert "NaN" in refused(np.array([0, np.nan], have)).message
    assert fitted(np.array([0, -np.inf], have)).tolist() == [0, -np.inf]
    for values in ([0, np.inf], [1, -np.inf], [np.inf, -np.inf], [np.inf]):
        assert "infinity" in refused(np.array(values, have)).message


def test_an_empty_batch_is_refused() -> None:
    for shape in (["n", 3], [None, 3]):
        assert "empty batch" in refused(np.ones((0, 3), np.float32), shape=shape).message


def test_names_in_messages_have_no_control_characters() -> None:
    arrays = {"x": np.ones(1, np.float32), "e\x1b[31m\nvil": np.ones(1)}
    with pytest.raises(DataError) as caught:
        fit(Sample("a\nb.npz", arrays), {"x": Spec([1])}, {"x": "float32"}, "calib")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ((1, 3), [1, 3]),
        ((1, 3), ["batch", 3]),
        ((1, 3), [None, None]),
        ((5, 3), [0, 3]),
        ((), []),
        ((2, 0), ["n", "past"]),
        ((0, 3), [0, 3]),
    ],
    ids=str,
)
def test_a_shape_fits_where_sizes_agree_or_are_open(have: tuple, want: list) -> None:
    assert fitted(np.ones(have, np.float32), shape=want).shape == have


@pytest.mark.parametrize(
    ("have", "want"),
    [((1, 3), [1, 4]), ((3,), [1, 3]), ((1, 1, 3), [1, 3]), ((), [1]), ((0, 3), [1, 3])],
    ids=str,
)
def test_another_shape_is_refused_with_both_shapes(have: tuple, want: list) -> None:
    message = refused(np.ones(have, np.float32), shape=want).message
    assert str(have) in message
    assert ", ".join(map(str, want)) in message


def test_open_axes_are_shown_as_their_name_or_a_question_mark() -> None:
    assert "(batch, ?, ?, 4)" in refused(np.ones(2, np.float32), shape=["batch", None, 0, 4]).message


@pytest.mark.parametrize(
    ("have", "want", "hint"),
    [
        ((1, 8, 8, 3), [1, 3, 8, 8], "channels-last"),
        ((3, 8, 8), [1, 3, 8, 8], "batch axis"),
        ((16, 3, 8, 8), [1, 3, 8, 8], "batch of 16"),
        ((1, 5), [1, 6], ""),
    ],
    ids=str,
)
def test_a_wrong_shape_gets_the_hint_that_mends_it(have: tuple, want: list, hint: str) -> None:
    error_hint = refused(np.ones(have, np.float32), shape=want).hint
    assert hint in error_hint
    assert bool(error_hint) == bool(hint)


SPECS = {"input_ids": Spec([1]), "mask": Spec([1])}
DTYPES = dict.fromkeys(SPECS, "float32")


def test_missing_and_extra_inputs_are_named() -> None:
    def error_of(*names: str) -> QtoolError:
        with pytest.raises(DataError) as caught:
            fit(Sample("0.npz", {n: np.ones(1, np.float32) for n in names}), SPECS, DTYPES, "calib")
        return caught.value

    error = error_of("input_idz", "mask")
    assert error.message == "calib/0.npz has no input 'input_ids' (it has: input_idz, mask)"
    assert error.hint == "--map 'input_idz=input_ids'"
    error = error_of()
    assert "it has: nothing" in error.message
    assert "the model wants: input_ids, mask" in error.hint
    assert "calib/0.npz: the model has no input 'labels'" in error_of(*SPECS, "labels").message


def test_the_result_is_in_the_order_of_the_models_inputs() -> None:
    arrays = {k: np.ones(1, np.float32) for k in reversed(SPECS)}
    assert list(fit(Sample("0.npz", arrays), SPECS, DTYPES, "calib")) == list(SPECS)


def test_strings_are_passed_as_objects() -> None:
    got = fitted(np.array(["a", "bc"]), "str")
    assert (got.dtype, got.tolist()) == (object, ["a", "bc"])
    refused(np.ones(2, np.float32), "str")


def test_a_type_that_numpy_lacks_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match=r"'x'.*tensor\(bfloat16\)") as caught:
        fit(Sample("0", {"x": np.ones(1)}), {"x": Spec([1], "tensor(bfloat16)")}, {"x": None}, "calib")
    assert caught.value.exit_code == 3
