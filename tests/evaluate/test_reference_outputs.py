"""Golden runs: outputs from a file judge as the model does that gave them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from qtool.errors import DataError, QtoolError, UsageError
from qtool.evaluate.reference_outputs import ReferenceOutputs
from qtool.options import Comparing
from tests.graphs import model, node, samples, weights, write_samples


def net(shift: float = 0.0) -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["logits"])],
        {"x": ("n", 4)},
        {"logits": ("n", 6)},
        {"w": weights(4, 6) + np.float32(shift)},
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    onnx.save(net(), tmp_path / "a.onnx")
    onnx.save(net(0.01), tmp_path / "b.onnx")
    write_samples(tmp_path / "eval", [s for i in range(9) for s in samples(1, seed=i, x=(1 + i % 3, 4))])
    return tmp_path


def kept(place: Path, **how: object) -> Path:
    ref = place / "ref.npz"
    qtool.compare(place / "a.onnx", place / "b.onnx", place / "eval", Comparing(save_ref=ref, **how))  # type: ignore[arg-type]
    return ref


def test_outputs_from_a_file_judge_as_the_model_does(place: Path) -> None:
    ref = kept(place)
    there = qtool.compare(place / "a.onnx", place / "b.onnx", place / "eval")
    here = qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval")
    assert here.comparison == there.comparison
    assert here.fp32 == there.fp32
    assert here.size_ratio == there.size_ratio


def test_the_same_outputs_give_the_same_file(place: Path) -> None:
    first = kept(place).read_bytes()
    assert kept(place, force=True).read_bytes() == first


def test_the_original_need_not_be_there(place: Path) -> None:
    ref = kept(place)
    (place / "a.onnx").unlink()
    comparison = qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval").comparison
    assert comparison is not None
    assert comparison.samples == 9


def test_part_of_the_samples_will_do(place: Path) -> None:
    ref = kept(place)
    sorted((place / "eval").glob("*.npz"))[3].unlink()
    assert qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval").comparison is not None


def test_another_sample_is_refused_by_its_digest(place: Path) -> None:
    ref = kept(place)
    np.savez(sorted((place / "eval").glob("*.npz"))[0], x=np.full((1, 4), 0.25, np.float32))
    with pytest.raises(DataError, match="no outputs for this sample") as caught:
        qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval")
    assert caught.value.exit_code == 4


def test_a_file_that_is_there_is_not_overwritten(place: Path) -> None:
    ref = kept(place)
    before = ref.read_bytes()
    with pytest.raises(QtoolError, match="exists"):
        kept(place)
    assert ref.read_bytes() == before


def test_the_file_is_not_the_models(place: Path) -> None:
    with pytest.raises(UsageError):
        qtool.compare(
            place / "a.onnx",
            place / "b.onnx",
            place / "eval",
            Comparing(save_ref=place / "a.onnx", force=True),
        )


def test_nothing_is_left_when_a_sample_fails(place: Path) -> None:
    np.savez(place / "eval" / "9.npz", x=np.zeros((1, 5), np.float32))
    with pytest.raises(DataError):
        kept(place)
    assert sorted(p.name for p in place.iterdir()) == ["a.onnx", "b.onnx", "eval"]


def test_speed_can_not_be_measured_without_the_model(place: Path) -> None:
    ref = kept(place)
    for how in (Comparing(speed=True), Comparing(fail_if=["speedup<1"])):
        with pytest.raises(UsageError, match="speed"):
            qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval", how)


def edited(ref: Path, **changes: object) -> Path:
    """The file with other metadata, or without an array (None)."""
    other = ref.with_name("other.npz")
    with np.load(ref) as arrays, zipfile.ZipFile(other, "w") as archive:
        for key in arrays.files:
            array = arrays[key]
            if key == "meta":
                array = np.array(json.dumps(json.loads(str(array)) | changes))
            elif key in changes:
                continue
            with archive.open(f"{key}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
    return other


@pytest.mark.parametrize(
    "changes",
    [{"schema": "qtool.reference/99"}, {"original": 3}, {"inputs": []}, {"samples": 5}, {"outputs": None}],
    ids=str,
)
def test_a_file_that_is_none_of_these_is_refused(place: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"other\.npz"):
        ReferenceOutputs(edited(kept(place), **changes))


def test_an_output_that_is_missing_is_told(place: Path) -> None:
    ref = edited(kept(place), **{"3.0": None})
    with pytest.raises(DataError, match="missing"):
        qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive at all"])
def test_a_damaged_file_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ref.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"ref\.npz"):
        ReferenceOutputs(tmp_path / "ref.npz")


def test_an_archive_of_samples_is_no_reference(place: Path) -> None:
    with pytest.raises(DataError):
        ReferenceOutputs(next((place / "eval").glob("*.npz")))


def test_the_tolerance_is_what_was_asked_for(place: Path) -> None:
    strict = Comparing(atol=0.0, rtol=0.0)
    loose = replace(strict, atol=1e3)
    found = [
        qtool.compare(place / "a.onnx", place / "b.onnx", place / "eval", how).comparison
        for how in (strict, loose)
    ]
    assert [c.outputs[0].mismatch for c in found if c] == [1.0, 0.0]
