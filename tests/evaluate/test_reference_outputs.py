"""Reference outputs from a file give the comparison that the model itself gives."""

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


def kept(place: Path, **options: object) -> Path:
    ref = place / "ref.npz"
    qtool.compare(place / "a.onnx", place / "b.onnx", place / "eval", Comparing(save_ref=ref, **options))  # type: ignore[arg-type]
    return ref


def test_outputs_from_a_file_give_the_same_comparison(place: Path) -> None:
    ref = kept(place)
    there = qtool.compare(place / "a.onnx", place / "b.onnx", place / "eval")
    here = qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval")
    assert here.comparison == there.comparison
    assert here.fp32 == there.fp32
    assert here.size_ratio == there.size_ratio


def test_the_same_outputs_give_the_same_file(place: Path) -> None:
    first = kept(place).read_bytes()
    assert kept(place, force=True).read_bytes() == first


def test_the_original_model_is_not_needed(place: Path) -> None:
    ref = kept(place)
    (place / "a.onnx").unlink()
    comparison = qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval").comparison
    assert comparison is not None
    assert comparison.samples == 9


def test_fewer_samples_can_be_compared(place: Path) -> None:
    ref = kept(place)
    sorted((place / "eval").glob("*.npz"))[3].unlink()
    assert qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval").comparison is not None


def test_another_sample_is_refused_by_its_digest(place: Path) -> None:
    ref = kept(place)
    np.savez(sorted((place / "eval").glob("*.npz"))[0], x=np.full((1, 4), 0.25, np.float32))
    with pytest.raises(DataError, match="no outputs for this sample") as caught:
        qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval")
    assert caught.value.exit_code == 4


def test_an_existing_file_is_not_overwritten(place: Path) -> None:
    ref = kept(place)
    before = ref.read_bytes()
    with pytest.raises(QtoolError, match="exists"):
        kept(place)
    assert ref.read_bytes() == before


def test_the_file_must_not_be_the_model(place: Path) -> None:
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
    for options in (Comparing(speed=True), Comparing(fail_if=["speedup<1"])):
        with pytest.raises(UsageError, match="speed"):
            qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval", options)


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
def test_a_file_of_another_schema_is_refused(place: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"other\.npz"):
        ReferenceOutputs(edited(kept(place), **changes))


def test_a_missing_output_is_a_data_error(place: Path) -> None:
    ref = edited(kept(place), **{"3.0": None})
    with pytest.raises(DataError, match="missing"):
        qtool.compare(ReferenceOutputs(ref), place / "b.onnx", place / "eval")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive at all"])
def test_a_damaged_file_is_a_data_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ref.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"ref\.npz"):
        ReferenceOutputs(tmp_path / "ref.npz")


def test_a_sample_archive_is_not_a_reference(place: Path) -> None:
    with pytest.raises(DataError):
        ReferenceOutputs(next((place / "eval").glob("*.npz")))


def test_mismatch_counts_by_the_tolerance(place: Path) -> None:
    strict = Comparing(atol=0.0, rtol=0.0)
    loose = replace(strict, atol=1e3)
    actual = [
        qtool.compare(place / "a.onnx", place / "b.onnx", place / "eval", options).comparison
        for options in (strict, loose)
    ]
    assert [c.outputs[0].mismatch for c in actual if c] == [1.0, 0.0]
