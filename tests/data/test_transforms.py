"""Options that change the samples of any source: --map, --layout, --fill, --split-batch, --samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.data.model_inputs import Axis, ModelInput
from qtool.errors import DataError
from tests.data.helpers import arrays, assert_positions, misused, model_inputs, names, refused, source
from tests.tiers import examples

LAW = settings(deadline=None, max_examples=examples(60), derandomize=True, database=None)


def made(count: int = 1, **shapes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Samples of distinct numbers."""
    return [
        {n: (np.arange(np.prod(s, dtype=int)) + 1000 * k).astype(np.float32).reshape(s) for n, s in shapes.items()}
        for k in range(count)
    ]  # fmt: skip


# --map


def test_map_renames_inputs() -> None:
    data = made(x=(1,), b=(2,))
    (got,) = arrays(source(data, model_inputs(a=(1,), b=(2,)), rename={"x": "a"}))
    assert got.keys() == {"a", "b"}
    np.testing.assert_array_equal(got["a"], data[0]["x"])


def test_two_names_can_be_swapped() -> None:
    data = made(a=(1,), b=(2,))
    (got,) = arrays(source(data, model_inputs(a=(2,), b=(1,)), rename={"a": "b", "b": "a"}))
    assert (got["a"].shape, got["b"].shape) == ((2,), (1,))


def test_a_name_that_no_sample_has_is_refused_with_a_hint() -> None:
    error = refused(lambda: arrays(source(made(mask=(1,)), model_inputs(a=(1,)), rename={"maks": "a"})))
    assert error.message == "samples/0 has no 'maks' to be mapped"
    assert "'mask'" in error.hint


def test_duplicate_names_are_refused() -> None:
    error = refused(lambda: arrays(source(made(x=(1,), a=(1,)), model_inputs(a=(1,)), rename={"x": "a"})))
    assert "has both 'x' and 'a'" in error.message


@pytest.mark.parametrize(
    ("reading", "message", "hint"),
    [
        ({"rename": {"x": "imput"}}, "--map: the model has no input 'imput'", "did you mean 'input'?"),
        ({"rename": {"x": "zzz"}}, "--map: the model has no input 'zzz'", "inputs: input, ids"),
        ({"rename": {"x": "input", "y": "input"}}, "--map: 2 names for the input 'input'", ""),
        ({"rename": {"x": "input"}, "fill": {"input": 0}}, "--map and --fill are both for", ""),
        ({"fill": {"imput": 0}}, "--fill: the model has no input 'imput'", "did you mean 'input'?"),
        ({"fill": {"ids": 0.5}}, "--fill ids=0.5: the model wants int64", ""),
        ({"fill": {"ids": float("nan")}}, "--fill ids=nan", ""),
        ({"fill": {"ids": 1e30}}, "--fill ids=1e+30", ""),
        ({"fill": {"input": 1e39}}, "--fill input=1e+39: the model wants float32", ""),
        ({"fill": {"words": 1}}, "--fill words=1: the model wants str", ""),
    ],
    ids=str,
)
def test_options_for_other_models_are_refused_before_reading(
    tmp_path: Path, reading: dict, message: str, hint: str
) -> None:
    wanted = model_inputs(input=("N", 3)) | model_inputs("int64", ids=(1,)) | model_inputs("str", words=(1,))
    error = misused(lambda: source(tmp_path / "missing", wanted, **reading))
    assert message in error.message
    assert hint in error.hint


# --layout


@pytest.mark.parametrize(
    ("layout", "have", "port", "become"),
    [
        ("nhwc", (1, 4, 5, 3), ("N", 3, 4, 5), (1, 3, 4, 5)),
        ("nhwc", (2, 4, 5, 3), ("N", 3, "H", "W"), (2, 3, 4, 5)),
        ("nhwc", (2, 4, 5, 3), (1, 3, 4, 5), (2, 3, 4, 5)),
        ("nhwc", (1, 4, 5, 3), (None, None, None, None), (1, 3, 4, 5)),
        ("nhwc", (1, 4, 5, 3), None, (1, 3, 4, 5)),
        ("nhwc", (4, 5, 3), (3, 4, 5), (3, 4, 5)),
        ("nhwc", (4, 5, 3), (1, 3, 4, 5), (3, 4, 5)),
        ("nhwc", (1, 6, 4, 5, 3), (1, 3, 6, 4, 5), (1, 3, 6, 4, 5)),
        ("nchw", (1, 3, 4, 5), (1, 4, 5, 3), (1, 4, 5, 3)),
        ("nchw", (3, 4, 5), (4, 5, 3), (4, 5, 3)),
        ("nchw", (1, 3, 6, 4, 5), ("N", 6, 4, 5, 3), (1, 6, 4, 5, 3)),
    ],
    ids=str,
)
def test_images_are_turned(
    layout: str, have: tuple[int, ...], port: tuple[Axis, ...] | None, become: tuple[int, ...]
) -> None:
    data = made(x=have)
    result = source(data, model_inputs(x=port), layout=layout)
    (got,) = arrays(result)
    first = 0 if len(have) == 3 else 1
    wanted = (
        np.moveaxis(data[0]["x"], -1, first) if layout == "nhwc" else np.moveaxis(data[0]["x"], first, -1)
    )
    assert got["x"].shape == become
    np.testing.assert_array_equal(got["x"], wanted)
    assert_positions(result)


@pytest.mark.parametrize(
    ("have", "port"),
    [((1, 2, 128, 2), (1, 2, 128, 2)), ((1, 3, 4, 5), ("N", 3, 4, 5)), ((7,), ("N",)), ((2, 3), ("N", 3)), ((1, 5, 8), (1, 5, 8))],
    ids=str,
)  # fmt: skip
def test_arrays_that_would_not_fit_then_stay(have: tuple[int, ...], port: tuple[Axis, ...]) -> None:
    data = made(x=have)
    np.testing.assert_array_equal(
        arrays(source(data, model_inputs(x=port), layout="nhwc"))[0]["x"], data[0]["x"]
    )


# --fill


@pytest.mark.parametrize(
    ("port", "value", "wanted"),
    [
        (ModelInput("s", (), "int64"), 16000, np.array(16000)),
        (ModelInput("s", (2, None, 3), "float32"), 0.5, np.full((2, 1, 3), 0.5, np.float32)),
        (ModelInput("s", ("batch", "seq"), "int64"), 1, np.ones((1, 7), np.int64)),
        (ModelInput("s", ("batch", "past"), "int64"), 1, np.ones((1, 1), np.int64)),
        (ModelInput("s", (2,), "bool"), 1, np.array([True, True])),
        (ModelInput("s", (1,), "float32"), -np.inf, np.array([-np.inf], np.float32)),
        (ModelInput("s", None, "float16"), 3, np.array(3, np.float16)),
    ],
    ids=str,
)
def test_an_input_that_the_samples_lack_is_filled(port: ModelInput, value: float, wanted: np.ndarray) -> None:
    result = source(made(ids=(1, 7)), model_inputs(ids=("batch", "seq")) | {"s": port}, fill={"s": value})
    (got,) = arrays(result)
    np.testing.assert_array_equal(got["s"], wanted)
    assert got["s"].dtype == wanted.dtype


def test_each_sample_has_its_own_length() -> None:
    data = made(ids=(1, 7)) + made(ids=(1, 3))
    wanted = model_inputs(ids=("batch", "seq"), mask=("batch", "seq"))
    assert [s["mask"].shape for s in arrays(source(data, wanted, fill={"mask": 1}))] == [(1, 7), (1, 3)]


def test_an_input_that_the_samples_have_is_not_filled() -> None:
    error = refused(lambda: arrays(source(made(s=(1,)), model_inputs(s=(1,)), fill={"s": 0})))
    assert error.message == "samples/0 has 's' itself"
    assert error.hint == "leave out --fill"


# --split-batch


@LAW
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=5), width=st.sampled_from([1, 2, "N", None]))
def test_stacked_samples_are_cut_into_batches_of_the_model(counts: list[int], width: Axis) -> None:
    take = width if isinstance(width, int) else 1
    data = [{"x": np.arange(c * take * 2.0).reshape(-1, 2) + 100 * i} for i, c in enumerate(counts)]
    result = source(data, model_inputs(x=(width, 2)), split_batch=True)
    assert len(result) == sum(counts)
    got = [s["x"] for s in arrays(result)]
    assert all(a.shape == (take, 2) for a in got)
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate([s["x"] for s in data]))
    assert_positions(result)


def test_arrays_of_fixed_length_go_with_every_part() -> None:
    data = made(x=(3, 2), table=(5, 2), scale=())
    wanted = model_inputs(x=("N", 2), table=(5, 2), scale=())
    result = source(data, wanted, split_batch=True)
    assert names(result) == ["0[0]", "0[1]", "0[2]"]
    assert [{n: a.shape for n, a in s.items()} for s in arrays(result)] == 3 * [
        {"x": (1, 2), "table": (5, 2), "scale": ()}
    ]


def test_filled_inputs_are_split_as_well() -> None:
    wanted = model_inputs(x=("batch", 2), mask=("batch", 2))
    result = source(made(x=(3, 2)), wanted, split_batch=True, fill={"mask": 1})
    assert [s["mask"].shape for s in arrays(result)] == [(1, 2)] * 3


@pytest.mark.parametrize(
    ("shapes", "wanted", "message"),
    [
        ({"x": (5, 2)}, {"x": (2, 2)}, "input 'x' has 5 rows; the model takes 2 at once"),
        ({"x": (4, 2), "y": (3,)}, {"x": ("N", 2), "y": ("N",)}, "unequal numbers of samples (x: 4, y: 3)"),
    ],
    ids=["a rest", "unequal"],
)
def test_batches_that_can_not_be_cut_are_refused(shapes: dict, wanted: dict, message: str) -> None:
    error = refused(lambda: source(made(**shapes), model_inputs(**wanted), split_batch=True))
    assert message in error.message
    assert error.message.startswith("samples/0: ")


# --samples


@LAW
@given(total=st.integers(1, 40), count=st.integers(1, 50), seed=st.integers(0, 5))
def test_chosen_samples_keep_their_order(total: int, count: int, seed: int) -> None:
    data = made(total, x=(1,))
    result = source(data, model_inputs(x=(1,)), samples=count, seed=seed)
    repeated = source(data, model_inputs(x=(1,)), samples=count, seed=seed)
    assert len(result) == min(total, count)
    assert names(result) == names(repeated) == sorted(names(result), key=int)
    assert_positions(result)


def test_the_seed_decides_which() -> None:
    chosen = {tuple(names(source(made(40, x=(1,)), samples=5, seed=seed))) for seed in range(5)}
    assert len(chosen) == 5


def test_files_that_are_not_chosen_are_not_opened(tmp_path: Path) -> None:
    for k in range(8):
        np.savez(tmp_path / f"{k}.npz", x=np.zeros(1))
    kept = names(source(tmp_path, samples=3))
    for k in range(8):
        if f"{k}.npz" not in kept:
            (tmp_path / f"{k}.npz").write_bytes(b"broken")
    assert len(arrays(source(tmp_path, samples=3))) == 3


def test_all_at_once() -> None:
    """A stacked channels-last file under other names, for a model with one more input."""
    data = made(2, pixels=(4, 5, 6, 3))
    wanted = model_inputs(image=("n", 3, 5, 6), scale=("n", 1))
    result = source(
        data,
        wanted,
        rename={"pixels": "image"},
        layout="nhwc",
        fill={"scale": 2},
        split_batch=True,
        samples=5,
    )
    assert len(result) == 5
    for name, got in zip(names(result), arrays(result), strict=True):
        file, part = int(name[0]), int(name[2])
        np.testing.assert_array_equal(got["image"][0], np.moveaxis(data[file]["pixels"][part], -1, 0))
        assert got["scale"].tolist() == [[2]]
    assert_positions(result)


def test_an_error_in_a_file_keeps_its_name_through_all_changes(tmp_path: Path) -> None:
    (tmp_path / "0.npz").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"0\.npz"):
        arrays(source(tmp_path, model_inputs(x=(1,)), layout="nhwc", fill={}, samples=1))
