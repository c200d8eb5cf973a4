"""Random ops draw the same numbers in every run, unless the runtime is timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import qtool
from qtool.runtime.noise import Noise
from qtool.runtime.session import Session
from tests.graphs import model, node, samples, weights, write_samples

N, CLASSES = 4000, 3
_P = np.full((N, 1), 0.3, np.float32)
_LOGITS = np.log(np.asarray([[0.5, 0.3, 0.2]] * N, np.float32))


def _drawing(op: str, data: np.ndarray | None, opset: int = 15, **attributes: object) -> onnx.ModelProto:
    inputs = ["x"] if data is not None else []
    constants = {}
    if op == "Dropout":
        inputs = ["x", "ratio", "training"]
        constants = {"ratio": np.asarray(0.25, np.float32), "training": np.asarray(True)}
    nodes = [node(op, inputs, ["r"], **attributes), node("Cast", ["r"], ["y"], to=TensorProto.FLOAT)]
    return model(
        nodes, {"x": (N, CLASSES if op == "Multinomial" else 1)}, {"y": ("M", "K")}, constants, opset=opset
    )


CASES = {
    "normal": _drawing("RandomNormal", None, shape=[N, 1], mean=2.0, scale=3.0),
    "normal-like": _drawing("RandomNormalLike", _P, scale=0.5),
    "normal-like-double": _drawing("RandomNormalLike", _P, dtype=TensorProto.DOUBLE),
    "normal-like-opset-9": _drawing("RandomNormalLike", _P, opset=9),
    "uniform": _drawing("RandomUniform", None, shape=[N, 1], low=-1.0, high=3.0),
    "uniform-like-seeded": _drawing("RandomUniformLike", _P, seed=7.0),
    "bernoulli": _drawing("Bernoulli", _P),
    "bernoulli-bool": _drawing("Bernoulli", _P, dtype=TensorProto.BOOL),
    "multinomial": _drawing("Multinomial", _LOGITS, sample_size=2, dtype=TensorProto.INT64),
    "dropout-13": _drawing("Dropout", _P, opset=13),
    "dropout-22": _drawing("Dropout", _P, opset=22),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_from_the_ops_distribution_and_the_same_in_every_run(name: str) -> None:
    data = CASES[name].SerializeToString()
    sample = {"x": _LOGITS if name == "multinomial" else _P}
    session, other = Session(data), Session(data)
    (first,), (second,), (elsewhere,) = session.run(sample), session.run(sample), other.run(sample)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, elsewhere)
    (native,) = Session(data, noise=Noise.RUNTIME).run(sample)
    assert first.shape == native.shape
    np.testing.assert_allclose(first.mean(), native.mean(), atol=0.1 * native.std())
    np.testing.assert_allclose(first.std(), native.std(), rtol=0.1)


def test_varied_noise_differs_between_runs_and_not_between_sessions() -> None:
    data = CASES["normal-like"].SerializeToString()
    sessions = [Session(data, noise=Noise.VARIED) for _ in range(2)]
    a, b = ([session.run({"x": _P})[0] for _ in range(2)] for session in sessions)
    assert not np.array_equal(a[0], a[1])
    np.testing.assert_array_equal(a, b)


def test_dropout_that_a_caller_switches_off_passes_its_input() -> None:
    graph = helper.make_graph(
        [node("Dropout", ["x", "", "training"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [8]),
            helper.make_tensor_value_info("training", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session, x = Session(data.SerializeToString()), np.ones(8, np.float32)
    np.testing.assert_array_equal(session.run({"x": x, "training": np.asarray(False)})[0], x)
    assert set(session.run({"x": x, "training": np.asarray(True)})[0]) == {0.0, 2.0}


def test_random_ops_in_branches_and_in_functions_are_fixed() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    tiny (float[64] x) => (float[64] y) {
        yes = Constant<value = bool {1}>()
        a = If (yes) <then_branch = t () => (u) { u = RandomNormalLike(x) },
                      else_branch = e () => (v) { v = Identity(x) }>
        b = local.noisy(x)
        y = Add(a, b)
    }
    <domain: "local", opset_import: ["": 17]> noisy (p) => (q) { q = RandomUniformLike(p) }"""
    session = Session(onnx.parser.parse_model(text).SerializeToString())
    assert list(session.inputs) == ["x"]
    first, second = (session.run({"x": np.zeros(64, np.float32)})[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.std() > 0.5


def test_tensors_in_a_side_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(_noisy(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (x,) = samples(1, x=(1, 8, 16))
    np.testing.assert_array_equal(Session(path).run(x)[0], Session(_noisy().SerializeToString()).run(x)[0])


def _noisy(**seed: float) -> onnx.ModelProto:
    """A convolution whose result has noise added, like a vocoder's, and another one behind it."""
    return model(
        [
            node("Conv", ["x", "w1"], ["m"], pads=[1, 1]),
            node("RandomNormalLike", ["m"], ["z"], **seed),
            node("Add", ["m", "z"], ["n"]),
            node("Conv", ["n", "w2"], ["y"], pads=[1, 1]),
        ],
        {"x": ("N", 8, 16)},
        ["y"],
        {"w1": weights(16, 8, 3), "w2": weights(8, 16, 3, seed=1)},
    )


@pytest.mark.parametrize("mode", ["static", "fp16"])
@pytest.mark.parametrize("seed", [{}, {"seed": 3.0}], ids=["unseeded", "seeded"])
def test_quantization_keeps_random_ops_and_their_seeds(
    tmp_path: Path, mode: str, seed: dict[str, float]
) -> None:
    calib = write_samples(tmp_path / "calib", samples(16, x=(1, 8, 16)))
    options = qtool.Options(mode=mode, calib=calib, target="cpu-avx2", timing="table", effort="fast")
    result = qtool.quantize(_noisy(**seed), tmp_path / "q.onnx", options)
    assert result.ok
    assert result.report.quantized_nodes >= 2
    assert result.report.comparison is not None
    assert result.report.comparison.sqnr > (25 if mode == "static" else 60)
    written = onnx.load(tmp_path / "q.onnx").graph
    (noise,) = (n for n in written.node if n.op_type == "RandomNormalLike")
    assert {a.name: a.f for a in noise.attribute if a.name == "seed"} == seed
    assert [i.name for i in written.input] == ["x"]
    report = qtool.compare(_noisy(), tmp_path / "q.onnx", calib)
    assert report.comparison is not None
    assert report.comparison.sqnr == pytest.approx(result.report.comparison.sqnr, abs=3)
