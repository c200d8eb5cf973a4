"""A directory of .npy files: an array a file, for a model of one input; the same gate as for .npz."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtool.data.fit import fit
from qtool.errors import DataError
from tests.data.helpers import arrays, assert_positions, model_inputs, names, refused, source, write
from tests.data.test_archive import head, npy, says, what_is_no_file

ONE = model_inputs(x=("N", 3))


def save(folder: Path, *made: np.ndarray) -> Path:
    for index, array in enumerate(made):
        np.save(folder / f"{index}.npy", array)
    return folder


def test_files_are_the_samples_of_the_only_input(tmp_path: Path) -> None:
    made = [np.full((1, 3), i, np.float32) for i in range(12)]
    found = source(save(tmp_path, *made), ONE)
    assert names(found) == [f"{i}.npy" for i in range(12)]
    for got, array in zip(arrays(found), made, strict=True):
        assert got.keys() == {"x"}
        np.testing.assert_array_equal(got["x"], array)
    assert_positions(found)


def test_a_single_file_is_a_sample(tmp_path: Path) -> None:
    save(tmp_path, np.zeros((1, 3)), np.ones((1, 3)))
    (got,) = arrays(source(tmp_path / "1.npy", ONE))
    assert got["x"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("reading", "key"),
    [({"fill": {"s": 0}}, "x"), ({"fill": {"s": 0}, "rename": {"data": "x"}}, "x")],
    ids=["--fill makes up the other", "--map names the array"],
)
def test_the_input_is_the_one_that_is_left(tmp_path: Path, reading: dict, key: str) -> None:
    (got,) = arrays(source(save(tmp_path, np.zeros((1, 3))), model_inputs(x=(1, 3), s=(1,)), **reading))
    assert got.keys() == {key, "s"}


@pytest.mark.parametrize("count", [0, 2, 3])
def test_a_model_of_another_number_of_inputs_wants_npz(tmp_path: Path, count: int) -> None:
    wanted = model_inputs(**{f"x{i}": (1, 3) for i in range(count)})
    error = refused(lambda: source(save(tmp_path, np.zeros(3)), wanted))
    assert f"the model has {count} inputs" in error.message
    assert ".npz" in error.hint


PLAIN = hnp.arrays(
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "<i8", ">i2", "u1", "u8", "?", "U3", "c8"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=60,
    derandomize=True,
    database=None,
)
@given(array=PLAIN, fortran=st.booleans(), version=st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_whatever_numpy_saves_is_read(
    tmp_path: Path, array: np.ndarray, fortran: bool, version: tuple[int, int]
) -> None:
    array = np.asfortranarray(array) if fortran and array.ndim else array
    content = npy(array, version if version != (3, 0) else (2, 0))
    write(tmp_path / "0.npy", content if version != (3, 0) else content[:6] + b"\3\0" + content[8:])
    (sample,) = source(tmp_path, ONE).read()
    held = sample.inputs["x"]
    assert (held.shape, held.dtype, held.ndim) == (array.shape, array.dtype, array.ndim)
    np.testing.assert_array_equal(np.asarray(held), array)


GOOD = npy(np.arange(6, dtype=np.float32))
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no array"),
    "text": (b"just text", "no array"),
    "pickle": (pickle.dumps([1]), "no array"),
    "truncated in the header": (GOOD[:40], "no array"),
    "truncated in the array": (GOOD[:-3], r"says that it is float32\[6\], and has 21 bytes"),
    "longer than it says": (GOOD + b"x", "and has 25 bytes"),
    "objects": (npy(np.array([{}], object)), "holds Python objects"),
    "records": (npy(np.zeros(2, [("a", "<f4")])), "holds"),
    "dates": (npy(np.zeros(2, "M8[s]")), "holds datetime64"),
    "a negative shape": (says("(-2,)"), "says that it is"),
    "a shape beyond all memory": (says(f"({2**62}, {2**62})"), "says that it is"),
    "nothing, of a shape beyond all": (says(f"(0, {10**30})", data=b""), "not readable"),
    "code for a header": (head("__import__('os').abort()"), "no array"),
    "nested without end": (head("(" * 9000), "no array"),
    "a header of 4 GB": (head("{'descr': ", (2, 0), 0xFFFFFFFF), "no array"),
    "a version of the future": (head("{}", (9, 0)), "no array"),
    "an archive": (b"PK\3\4" + bytes(40), "archive of named arrays"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_not_what_it_says_is_refused_by_its_name(tmp_path: Path, what: str) -> None:
    content, message = BROKEN[what]
    write(tmp_path / "0.npy", content)
    with pytest.raises(DataError, match=message) as caught:
        arrays(source(tmp_path, ONE))
    assert "0.npy" in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("kind", ["fifo", "device", "loop", "dangling", "folder"])
def test_what_is_no_file_is_refused_without_waiting(kind: str, tmp_path: Path) -> None:
    what_is_no_file(kind, tmp_path / "0.npy")
    assert "0.npy" in refused(lambda: arrays(source(tmp_path, ONE))).message


def test_shapes_are_known_before_anything_is_read(tmp_path: Path) -> None:
    from types import SimpleNamespace

    save(tmp_path, np.zeros((64, 1 << 18), np.uint8))
    spec = SimpleNamespace(shape=[1, 3], type="tensor(float)")
    tracemalloc.start()
    try:
        (sample,) = source(tmp_path, ONE).read()
        with pytest.raises(DataError, match="'x' has shape"):
            fit(sample, {"x": spec}, {"x": "float32"}, "calib")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_files_that_are_not_chosen_are_not_opened(tmp_path: Path) -> None:
    save(tmp_path, np.zeros(1), np.zeros(1), np.zeros(1))
    write(tmp_path / "1.npy", b"broken")
    assert names(source(tmp_path, ONE), {0, 2}) == ["0.npy", "2.npy"]


def test_a_file_that_changes_is_refused(tmp_path: Path) -> None:
    found = source(save(tmp_path, np.zeros(2)), ONE)
    (sample,) = found.read()
    stream = io.BytesIO()
    np.save(stream, np.ones(2))
    (tmp_path / "new").write_bytes(stream.getvalue())
    (tmp_path / "new").rename(tmp_path / "0.npy")
    assert "changed" in refused(lambda: np.asarray(sample.inputs["x"])).message
    assert "changed" in refused(lambda: list(found.read())).message
