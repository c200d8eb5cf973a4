"""Calibration in parts, by processes, in groups, and after a kill gives the ranges of one run."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool.calibration.checkpoint
from qtool.calibration.ranges_file import Calibration, to_json
from qtool.commands.calibrate import Calibrating, Shard, calibrate_model
from qtool.data.reading import Reading
from qtool.errors import DataError, QtoolError, UsageError
from tests.graphs import SAMPLE_MODELS, model, node, samples, weights, write_samples
from tests.tiers import sample

COUNT = 11
ONE = Calibrating(threads=1)


def net(width: int = 8) -> onnx.ModelProto:
    return model(
        [
            node("MatMul", ["x", "a"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "b"], ["k"]),
            node("Sigmoid", ["k"], ["s"]),
            node("MatMul", ["s", "c"], ["y"]),
        ],
        {"x": ("n", 4)},
        {"y": ("n", 3)},
        {"a": weights(4, width), "b": weights(width, width, seed=1), "c": weights(width, 3, seed=2)},
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    onnx.save(net(), tmp_path / "m.onnx")
    write_samples(tmp_path / "calib", [s for i in range(COUNT) for s in samples(1, seed=i, x=(1 + i % 3, 4))])
    return tmp_path


def made(place: Path, options: Calibrating = ONE) -> Calibration:
    return calibrate_model(place / "m.onnx", place / "calib", options)


def same(a: Calibration, b: Calibration) -> None:
    assert to_json(a) == to_json(b)


@pytest.mark.parametrize("count", [2, 3, COUNT])
def test_shards_merge_to_the_whole_in_any_order(place: Path, count: int) -> None:
    parts = [made(place, replace(ONE, shard=Shard(i, count))) for i in range(1, count + 1)]
    same(reduce(Calibration.merge, parts), made(place))
    same(reduce(Calibration.merge, reversed(parts)), made(place))
    assert sum(p.samples for p in parts) == COUNT


@pytest.mark.parametrize("shard", sample([Shard(2, 3), Shard()], 2), ids=str)
def test_several_processes_give_the_ranges_of_one(place: Path, shard: Shard) -> None:
    progress: list[tuple[int, int]] = []
    options = replace(ONE, shard=shard)
    both = calibrate_model(
        place / "m.onnx",
        place / "calib",
        replace(options, jobs=2),
        lambda stage, done, total: progress.append((done, total)),
    )
    same(both, made(place, options))
    assert progress[-1][0] == progress[-1][1] == both.samples


def test_an_error_in_a_process_is_the_error(place: Path) -> None:
    np.savez(place / "calib" / "000.npz", y=np.zeros(3, np.float32))
    errors: list[QtoolError] = []
    for jobs in (1, 2):
        with pytest.raises(DataError) as caught:
            made(place, replace(ONE, jobs=jobs))
        errors.append(caught.value)
    assert errors[0].message == errors[1].message
    assert errors[0].hint == errors[1].hint


def test_processes_need_paths(place: Path) -> None:
    with pytest.raises(UsageError, match="paths"):
        calibrate_model(net(), place / "calib", replace(ONE, jobs=2))


@pytest.mark.parametrize("memory", [1, 1000, 10**9])
def test_groups_see_the_same_extremes(place: Path, memory: int) -> None:
    """To rounding: the runtime fuses more where less is observed."""
    ungrouped, grouped = made(place), made(place, replace(ONE, memory=memory))
    assert ungrouped.ranges.keys() == grouped.ranges.keys()
    assert ungrouped.samples_digest == grouped.samples_digest
    for name, reached in ungrouped.ranges.items():
        other = grouped.ranges[name]
        assert (other.lo, other.hi) == pytest.approx((reached.lo, reached.hi), rel=1e-5, abs=1e-6)
        assert (other.count, other.samples) == (reached.count, reached.samples)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("memory", "after"),
    [*((None, n) for n in (1, COUNT - 1, COUNT)), *((1, n) for n in (5, COUNT, COUNT + 2))],
)
def test_a_killed_run_resumes_from_its_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch, after: int, memory: int | None
) -> None:
    monkeypatch.setattr(qtool.calibration.checkpoint, "SECONDS", 0.0)
    file = place / "kept.json"
    options = replace(ONE, memory=memory)
    kept = replace(options, checkpoint=file)
    done: list[int] = []

    def kill(stage: str, at: int, total: int) -> None:
        done.append(at)
        if len(done) == after:
            raise Killed

    with pytest.raises(Killed):
        calibrate_model(place / "m.onnx", place / "calib", kept, kill)
    assert json.loads(file.read_text())["state"]["so_far"]["done"] == after
    resumed: list[int] = []
    result = calibrate_model(
        place / "m.onnx",
        place / "calib",
        replace(kept, resume=True),
        lambda stage, at, total: resumed.append(at),
    )
    same(result, made(place, options))
    assert resumed[:1] == ([] if memory is None and after == COUNT else [after + 1])
    assert not file.exists()
    assert sorted(p.name for p in place.iterdir()) == ["calib", "m.onnx"]


def test_a_checkpoint_that_is_there_is_not_overwritten(place: Path) -> None:
    file = place / "kept.json"
    file.write_text("precious")
    with pytest.raises(UsageError, match="there already") as caught:
        made(place, replace(ONE, checkpoint=file))
    assert "--resume" in caught.value.hint
    with pytest.raises(UsageError, match="not JSON"):
        made(place, replace(ONE, checkpoint=file, resume=True))
    assert file.read_text() == "precious"


def test_resume_without_a_checkpoint_starts_anew(place: Path) -> None:
    file = place / "kept.json"
    same(made(place, replace(ONE, checkpoint=file, resume=True)), made(place))
    assert not file.exists()


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"shard": Shard(1, 2)}, "shard"),
        ({"target": "generic"}, "target"),
        ({"reading": Reading(samples=9)}, "samples"),
        ({"memory": 77}, "memory"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_run_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, object], word: str
) -> None:
    monkeypatch.setattr(qtool.calibration.checkpoint, "SECONDS", 0.0)
    options = replace(ONE, checkpoint=place / "kept.json")

    def kill(stage: str, at: int, total: int) -> None:
        if at == 4:
            raise Killed

    with pytest.raises(Killed):
        calibrate_model(place / "m.onnx", place / "calib", options, kill)
    with pytest.raises(UsageError, match=f"another run: its {word}"):
        made(place, replace(options, resume=True, **other))


@pytest.mark.parametrize("damage", ["{}", '{"schema": "qtool.checkpoint/2"}', "[1]", '{"schema": 1}', "nul"])
def test_a_damaged_checkpoint_is_refused(place: Path, damage: str) -> None:
    file = place / "kept.json"
    file.write_text(damage)
    with pytest.raises(UsageError, match="checkpoint"):
        made(place, replace(ONE, checkpoint=file, resume=True))


def test_a_recurrent_model_whose_outputs_are_partly_omitted_is_calibrated() -> None:
    """The other outputs of its LSTMs have no names to observe them by."""
    folder = SAMPLE_MODELS / "lstm"
    calibration = calibrate_model(folder / "model.onnx", folder / "calib")
    assert calibration.ranges and all(calibration.ranges)
