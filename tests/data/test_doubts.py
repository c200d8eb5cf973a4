"""Doubts about samples: each mistake is named, and good data is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from qtool.commands.prepare import load_model, read_samples
from qtool.data.doubts import ObservedSamples, doubts_of
from qtool.data.reading import Reading
from tests.graphs import SHARED_MODELS, model, node, rng, weights, write_samples

Made = list[dict[str, np.ndarray]]
MODELS = [
    *(Path(__file__).parents[2] / "sample_models").iterdir(),
    *(SHARED_MODELS.iterdir() if SHARED_MODELS.exists() else ()),
]


def net(channels: int = 3, *, scale: bool = False, norm: bool = False) -> onnx.ModelProto:
    """A Conv on images, behind a division, or before a BatchNormalization that was trained on 0..1."""
    nodes = [node("Div", ["x", "d"], ["s"])] if scale else []
    nodes.append(node("Conv", ["s" if scale else "x", "w"], ["c"]))
    constants = {"w": (10 if norm else 1) * weights(4, channels, 3, 3), "d": np.array(255, np.float32)}
    if norm:
        nodes.append(node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["y"]))
        constants |= {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
    return model(nodes, {"x": ["N", channels, 16, 16]}, ["y" if norm else "c"], constants)


def folded(bias: float, first: float = 1.0) -> onnx.ModelProto:
    """Four Convs on one channel, with biases that are this large beside filters of norm 1."""
    nodes = [node("Conv", [["x", "c0", "c1", "c2"][i], f"w{i}", f"b{i}"], [f"c{i}"]) for i in range(4)]
    constants = {f"b{i}": np.full(8, bias, np.float32) for i in range(4)}
    for i in range(4):
        filters = rng(i).standard_normal((8, 8 if i else 1, 3, 3)).astype(np.float32)
        scale = 1 if i else first
        constants[f"w{i}"] = (
            scale * filters / np.linalg.norm(filters.reshape(8, -1), axis=1).reshape(8, 1, 1, 1)
        )
    return model(nodes, {"x": ["N", 1, 16, 16]}, ["c3"], constants)


def images(count: int = 6, channels: int = 3, high: float = 1.0, seed: int = 0, **shift: Any) -> Made:
    means = np.linspace(0.9, 0.1, channels, dtype=np.float32)[:: shift.get("step", 1)].reshape(1, -1, 1, 1)
    made = [means + 0.1 * rng(seed + i).random((1, channels, 16, 16), np.float32) for i in range(count)]
    return [{"x": np.clip(image, 0, 1) * np.float32(high)} for image in made]


def observed(proto: onnx.ModelProto, data: Any, reading: Reading | None = None) -> ObservedSamples:
    samples = read_samples(load_model(proto), data, reading or Reading())
    for _ in samples.read():
        pass
    return samples


BLANK = [{"x": np.zeros((1, 3, 16, 16), np.float32)}]
WRONG: dict[str, tuple[onnx.ModelProto, Made, str]] = {
    "pixels": (net(), images(high=255), "looks unnormalised"),
    "whole pixels": (net(), [{"x": np.round(s["x"])} for s in images(high=255)], "looks unnormalised"),
    "one channel": (net(1, norm=True), images(channels=1, high=255), "looks unnormalised"),
    "one channel, folded": (folded(0.3), images(channels=1, high=255), "looks unnormalised"),
    "all zero": (net(), BLANK * 4, "is 0 everywhere"),
    "one is constant": (net(), [*images(), {"x": np.full((1, 3, 16, 16), 0.5, np.float32)}], "1 of 7 samples are constant"),
    "the same": (net(), images(1) * 4, "all 4 samples that were read are the same"),
}  # fmt: skip


@pytest.mark.parametrize(("proto", "made", "words"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_named(proto: onnx.ModelProto, made: Made, words: str) -> None:
    assert words in "; ".join(observed(proto, made).doubts())


RIGHT: dict[str, tuple[onnx.ModelProto, Made]] = {
    "normalised": (net(), images()),
    "the model divides": (net(scale=True), images(high=255)),
    "digits, one channel": (net(1), images(channels=1, high=255)),
    "digits, no BatchNormalization": (folded(0.05), images(channels=1, high=255)),
    "pixels, folded": (folded(0.3, first=0.01), images(channels=1, high=255)),
    "normalised, one channel": (net(1, norm=True), images(channels=1)),
    "one sample": (net(), images(1)),
}


@pytest.mark.parametrize(("proto", "made"), RIGHT.values(), ids=RIGHT)
def test_good_samples_are_not_doubted(proto: onnx.ModelProto, made: Made) -> None:
    assert observed(proto, made).doubts() == []


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_the_samples_of_real_models_are_not_doubted(folder: Path) -> None:
    if not (folder / "model.onnx").exists():
        pytest.skip("no model")
    source = load_model(folder / "model.onnx")
    sources = [read_samples(source, folder / name, Reading()) for name in ("calib", "eval")]
    for samples in sources:
        for _ in samples.read(frozenset(range(16))):
            pass
    assert doubts_of(*sources) == ()


def test_a_stacked_file_gets_the_hint_at_split_batch(tmp_path: Path) -> None:
    stacked = {"x": np.concatenate([s["x"] for s in images(12)])}
    folder = write_samples(tmp_path / "stacked", [stacked])
    assert "1 sample of 12 rows each" in "; ".join(observed(net(), folder).doubts())
    assert "--split-batch" not in "; ".join(observed(net(), folder, Reading(split_batch=True)).doubts())
    batches = write_samples(tmp_path / "batches", [stacked] * 3 + [{"x": 0.5 * stacked["x"]}])
    assert observed(net(), batches).doubts() == [], "several batches are meant"


def between(calib: Made, data: Made, tmp_path: Path) -> str:
    folders = write_samples(tmp_path / "calib", calib), write_samples(tmp_path / "data", data)
    return "; ".join(doubts_of(*(observed(net(), folder) for folder in folders)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (images(4), "4 of 4 samples of --data"),
        ([*images(4, seed=50), images(1)[0]], "1 of 5 samples of --data"),
        (images(seed=50, high=0.01), "are both preprocessed alike?"),
        (images(seed=50, step=-1), "the channels of --data look reversed"),
        (images(seed=50), ""),
    ],
    ids=["a copy", "one in both", "another range", "reversed channels", "good"],
)
def test_samples_that_judge_are_held_against_those_that_set_ranges(
    data: Made, words: str, tmp_path: Path
) -> None:
    told = between(images(), data, tmp_path)
    assert words in told
    assert bool(told) == bool(words)


def test_every_command_that_reads_samples_doubts_them(tmp_path: Path) -> None:
    proto, pixels = net(), images(16, high=255)
    options = qtool.Options(calib=pixels, target="generic", gate="none", timing="table", recover="none")
    said = {
        "quantize": qtool.quantize(proto, tmp_path / "q.onnx", options).report.warnings,
        "bench": qtool.bench(proto, pixels, qtool.Benching(max_time=0.1)).warnings,
        "compare": qtool.compare(proto, proto, pixels).warnings,
        "data": qtool.survey(pixels, proto).warnings,
    }
    heard: list[str] = []
    qtool.calibrate(proto, pixels, warn=heard.append)
    said["calibrate"] = tuple(heard)
    assert all(any("looks unnormalised" in line for line in lines) for lines in said.values()), said
