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
    """What the runtime says of an input."""

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


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "uint64", "bool"]
)
def test_an_array_of_the_right_type_is_passed_as_it_is(dtype: str) -> None:
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
def test_a_cast_that_loses_nothing_is_made(have: str, want: str, values: list) -> None:
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
def test_nan_is_refused(have: str) -> None:
    assert "NaN" in refused(np.array([0, np.nan], have)).message


@pytest.mark.parametrize("have", ["float16", "float32", "float64"])
def test_a_mask_of_infinity_and_zero_is_allowed(have: str) -> None:
    assert fitted(np.array([0, -np.inf], have)).tolist() == [0, -np.inf]


@pytest.mark.parametrize("values", [[0, np.inf], [1, -np.inf], [np.inf, -np.inf], [np.inf]], ids=str)
def test_infinity_among_values_is_refused(values: list[float]) -> None:
    assert "infinity" in refused(np.array(values, np.float32)).message


@pytest.mark.parametrize("want", [["n", 3], [None, 3]], ids=str)
def test_an_empty_batch_is_refused(want: list) -> None:
    assert "empty batch" in refused(np.ones((0, 3), np.float32), shape=want).message


def test_what_is_known_of_an_array_is_checked_before_it_is_read() -> None:
    class Unread:
        """An array that lies in a file."""

        dtype = np.dtype(np.float32)

        def __init__(self, *shape: int) -> None:
            self.shape, self.ndim = shape, len(shape)

        def __array__(self, *_: object) -> np.ndarray:
            pytest.fail("read")

    specs = {"x": Spec([1, 3]), "y": Spec([2])}
    with pytest.raises(DataError, match="'y' has shape"):
        fit(Sample("0", {"x": Unread(1, 3), "y": Unread(1)}), specs, dict.fromkeys(specs, "float32"), "calib")


def test_a_foreign_name_in_a_message_is_one_line_without_control_characters() -> None:
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
    found = refused(np.ones(have, np.float32), shape=want).hint
    assert hint in found
    assert bool(found) == bool(hint)


SPECS = {"input_ids": Spec([1]), "mask": Spec([1])}
DTYPES = dict.fromkeys(SPECS, "float32")


def test_a_missing_input_is_named_with_what_is_there() -> None:
    sample = Sample("0.npz", {"input_idz": np.ones(1, np.float32), "mask": np.ones(1, np.float32)})
    with pytest.raises(DataError) as caught:
        fit(sample, SPECS, DTYPES, "calib")
    assert "calib/0.npz has no input 'input_ids'" in caught.value.message
    assert "input_idz, mask" in caught.value.message
    assert "--map 'input_idz=input_ids'" in caught.value.hint


def test_a_missing_input_without_a_like_is_hinted_at_with_what_the_model_wants() -> None:
    with pytest.raises(DataError) as caught:
        fit(Sample("0.npz", {}), SPECS, DTYPES, "calib")
    assert "nothing" in caught.value.message
    assert "the model wants: input_ids, mask" in caught.value.hint


def test_an_extra_array_is_refused_by_its_name() -> None:
    arrays = {k: np.ones(1, np.float32) for k in (*SPECS, "labels")}
    with pytest.raises(DataError, match="calib/0.npz: the model has no input 'labels'"):
        fit(Sample("0.npz", arrays), SPECS, DTYPES, "calib")


def test_the_result_is_in_the_order_of_the_models_inputs() -> None:
    arrays = {k: np.ones(1, np.float32) for k in reversed(SPECS)}
    assert list(fit(Sample("0.npz", arrays), SPECS, DTYPES, "calib")) == list(SPECS)


def test_strings_are_passed_as_objects() -> None:
    got = fitted(np.array(["a", "bc"]), "str")
    assert got.dtype == object
    assert got.tolist() == ["a", "bc"]


def test_numbers_are_no_strings() -> None:
    refused(np.ones(2, np.float32), "str")


def test_a_type_that_numpy_lacks_is_the_models_fault() -> None:
    with pytest.raises(ModelError, match=r"'x'.*tensor\(bfloat16\)") as caught:
        fit(Sample("0", {"x": np.ones(1)}), {"x": Spec([1], "tensor(bfloat16)")}, {"x": None}, "calib")
    assert caught.value.exit_code == 3


def test_a_sample_is_left_as_it_was() -> None:
    array = np.array([1.5, 2.5])
    fitted(array)
    assert array.dtype == np.float64
