"""ONNX's own layout of test data: the input of each file, and damaged tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from tests.data.helpers import arrays, assert_positions, model_inputs, names, refused, source, write
from tests.tiers import examples

TWO = model_inputs(a=(1,), b=(1,))


def pb(value: float | np.ndarray, name: str = "") -> bytes:
    array = np.array([value], np.float32) if isinstance(value, int | float) else value
    return numpy_helper.from_array(array, name).SerializeToString()


def sets(folder: Path, count: int, below: str = "") -> Path:
    for k in range(count):
        here = folder / below / f"test_data_set_{k}"
        write(here / "input_0.pb", pb(k))
        write(here / "input_1.pb", pb(k + 100))
        write(here / "output_0.pb", b"not read")
    return folder


def test_each_set_is_a_sample_in_numeric_order(tmp_path: Path) -> None:
    result = source(sets(tmp_path, 12), TWO)
    assert names(result) == [f"test_data_set_{k}" for k in range(12)]
    assert [{n: a.item() for n, a in s.items()} for s in arrays(result)] == [
        {"a": k, "b": k + 100} for k in range(12)
    ]
    assert_positions(result)


def test_a_set_a_file_and_deeper_folders_are_samples(tmp_path: Path) -> None:
    assert names(source(sets(tmp_path, 2, "resnet"), TWO)) == [f"resnet/test_data_set_{k}" for k in range(2)]
    assert names(source(tmp_path / "resnet" / "test_data_set_1", TWO)) == ["test_data_set_1"]
    write(tmp_path / "input_0.pb", pb(7))
    (got,) = arrays(source(tmp_path / "input_0.pb", model_inputs(x=(1,))))
    assert got["x"].tolist() == [7]


@pytest.mark.parametrize(
    ("tensors", "rename", "wanted"),
    [
        (["b", "a"], {}, {"b": 0, "a": 1}),
        (["other", ""], {}, {"a": 0, "b": 1}),
        (["", "a"], {}, None),
        (["data", "b"], {"data": "a"}, {"a": 0, "b": 1}),
        (["x", "y"], {"x": "b", "y": "a"}, {"b": 0, "a": 1}),
    ],
    ids=["by name", "by number", "two for one", "one renamed", "both renamed"],
)
def test_a_tensor_goes_to_the_input_of_its_name_else_of_its_number(
    tmp_path: Path, tensors: list[str], rename: dict[str, str], wanted: dict[str, int] | None
) -> None:
    for k, name in enumerate(tensors):
        write(tmp_path / f"input_{k}.pb", pb(k, name))
    result = source(tmp_path, TWO, rename=rename)
    if wanted is None:
        assert "a second value" in refused(lambda: arrays(result)).message
    else:
        (got,) = arrays(result)
        assert {n: a.item() for n, a in got.items()} == wanted


def test_ten_inputs_are_in_numeric_order(tmp_path: Path) -> None:
    wanted = model_inputs(**{f"x{k}": (1,) for k in range(12)})
    for k in range(12):
        write(tmp_path / f"input_{k}.pb", pb(k))
    (got,) = arrays(source(tmp_path, wanted))
    assert {n: a.item() for n, a in got.items()} == {f"x{k}": k for k in range(12)}


def test_files_that_are_not_inputs_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "output_0.pb", pb(0))
    assert "no file input_N.pb" in refused(lambda: source(tmp_path, TWO)).message
    write(tmp_path / "input_0.pb", pb(0))
    write(tmp_path / "input_2.pb", pb(0, "c"))
    error = refused(lambda: arrays(source(tmp_path, TWO)))
    assert "'c' is no input of the model, which has 2" in error.message
    write(tmp_path / "input_00.pb", pb(0))
    assert "a second input 0" in refused(lambda: source(tmp_path, TWO)).message


ANY = hnp.arrays(
    dtype=st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=examples(40),
    derandomize=True,
    database=None,
)
@given(array=ANY, raw=st.booleans())
def test_the_output_of_onnx_is_read(tmp_path: Path, array: np.ndarray, raw: bool) -> None:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.tobytes() if raw else array.reshape(-1).tolist()
    tensor = helper.make_tensor("x", kind, array.shape, values, raw=raw)
    write(tmp_path / "input_0.pb", tensor.SerializeToString())
    (got,) = arrays(source(tmp_path, model_inputs(x=None)))
    assert (got["x"].dtype, got["x"].shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(got["x"], numpy_helper.to_array(tensor))


def test_text_is_read(tmp_path: Path) -> None:
    write(tmp_path / "input_0.pb", pb(np.array([["a", "bcé"]], object)))
    (got,) = arrays(source(tmp_path, model_inputs("str", x=None)))
    assert got["x"].tolist() == [["a", "bcé"]]


def tensor(**fields: object) -> bytes:
    made = TensorProto(data_type=1, dims=[2], raw_data=bytes(8))
    for name, value in fields.items():
        made.ClearField(name)
        if isinstance(value, list):
            getattr(made, name).extend(value)
        elif value is not None:
            setattr(made, name, value)
    return made.SerializeToString()


def external() -> bytes:
    made = TensorProto(data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="location", value="/etc/passwd")
    return made.SerializeToString()


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a readable tensor"),
    "text": (b"just text", "not a readable tensor"),
    "truncated": (tensor()[:-3], "not a readable tensor"),
    "more than its shape": (tensor(dims=[1]), "not a readable tensor"),
    "less than its shape": (tensor(dims=[3]), "not a readable tensor"),
    "negative shapes": (tensor(dims=[-2, -1]), "not a readable tensor"),
    "a shape beyond all": (tensor(dims=[2**40, 2**40]), "not a readable tensor"),
    "too many axes": (tensor(dims=[1] * 99), "not a readable tensor"),
    "an unknown type": (tensor(data_type=99), "not a readable tensor"),
    "bfloat16": (tensor(data_type=TensorProto.BFLOAT16, raw_data=bytes(4)), "bfloat16, which numpy lacks"),
    "values of another type": (tensor(data_type=TensorProto.INT64, raw_data=None, int32_data=[1, 2]), "not a readable tensor"),
    "text that is none": (tensor(data_type=TensorProto.STRING, raw_data=None, dims=[1], string_data=[b"\xff"]), "utf-8"),
    "data elsewhere": (external(), "in another file"),
    "a sequence": (numpy_helper.from_list([np.ones(2)], "s").SerializeToString(), "not a readable tensor"),
    "an optional value": (numpy_helper.from_optional(np.ones(2), "o").SerializeToString(), "not a readable tensor"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_damaged_tensors_are_refused_by_name(tmp_path: Path, what: str) -> None:
    content, message = BROKEN[what]
    write(tmp_path / "test_data_set_0" / "input_0.pb", content)
    error = refused(lambda: arrays(source(tmp_path, model_inputs(x=None))))
    assert "test_data_set_0/input_0.pb: " in error.message
    assert message in error.message


def test_all_that_onnx_ships_is_read() -> None:
    """The tests that come with onnx, by its own reader's account."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "simple"
    for case in sorted(folder.iterdir()):
        sets_of = sorted(case.glob("test_data_set_*"))
        if not any(s.glob("input_*.pb") for s in sets_of):
            continue
        model = onnx.load(case / "model.onnx")
        wanted = model_inputs(**{v.name: None for v in model.graph.input if v.type.HasField("tensor_type")})
        if len(wanted) == len(model.graph.input) and wanted:
            assert len(arrays(source(case, wanted))) == len(sets_of)
