"""A sample on which the model fails: each command names its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

import qtool
from tests.graphs import model, node, rng, weights, write_samples

ROWS = 64
Command = Callable[[Path, Path], object]


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A table of 64 rows, and four samples. The third picks row 900."""
    nodes = [node("Gather", ["w", "ids"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    constants = {"w": weights(ROWS, 32), "v": weights(32, 32)}
    proto = model(nodes, {"ids": ["N"]}, ["y"], constants, input_type=TensorProto.INT64)
    onnx.save(proto, tmp_path / "m.onnx")
    taken = [{"ids": rng(i).integers(0, ROWS, 8) + (900 if i == 2 else 0)} for i in range(4)]
    return tmp_path / "m.onnx", write_samples(tmp_path / "calib", taken)


def quantize(path: Path, data: Path, **options: object) -> object:
    return qtool.quantize(path, path.with_name("o.onnx"), qtool.Options(calib=data, **options))


COMMANDS: dict[str, Command] = {
    "calibrate": qtool.calibrate,
    "quantize": quantize,
    "quantize-weights": lambda path, data: quantize(path, data, mode="weight-only"),
    "tune": lambda path, data: qtool.tune(path, options=qtool.Options(calib=data)),
    "compare": lambda path, data: qtool.compare(path, path, data),
    "bench": lambda path, data: qtool.bench([path], data, qtool.Benching(max_time=1)),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_sample_that_breaks_the_model_is_named(command: str, paths: tuple[Path, Path]) -> None:
    with pytest.raises(qtool.RuntimeFailure) as caught:
        COMMANDS[command](*paths)
    assert "002.npz" in caught.value.message
    assert "out of data bounds" in caught.value.message
    assert "sample" in caught.value.hint
