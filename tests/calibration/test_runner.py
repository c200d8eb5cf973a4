"""Calibration sees exactly the tensors it is asked for, over all samples."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import qtool.graph.save
from qtool.calibration.runner import calibrate
from qtool.data.iterables import InMemory
from qtool.data.open import open_source
from qtool.errors import DataError
from qtool.runtime.session import Session
from tests.graphs import model, node, samples, weights


def net() -> onnx.ModelProto:
    return model(
        [
            node("MatMul", ["x", "w"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Sigmoid", ["r"], ["y"]),
        ],
        {"x": ("n", 4)},
        {"y": ("n", 5)},
        {"w": weights(4, 5)},
    )


def log_net() -> onnx.ModelProto:
    return model([node("Log", ["x"], ["h"]), node("Exp", ["h"], ["y"])], {"x": ("n",)}, {"y": ("n",)})


def reference(proto: onnx.ModelProto, made: list[dict[str, np.ndarray]], value: str) -> np.ndarray:
    """All elements that a value held over all samples."""
    shown = onnx.ModelProto.FromString(proto.SerializeToString())
    if value not in [o.name for o in shown.graph.output]:
        shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(value))
    session = Session(shown.SerializeToString())
    return np.concatenate([session.run(s, [value])[0].reshape(-1) for s in made])


def test_ranges_are_numpys_over_all_samples_at_once() -> None:
    made = samples(9, x=(3, 4))
    ranges = calibrate(ir.from_proto(net()), ["h", "r", "y"], open_source(made))
    assert ranges.keys() == {"h", "r", "y"}
    for value, observed in ranges.items():
        everything = reference(net(), made, value)
        assert (observed.lo, observed.hi) == (everything.min(), everything.max())
        assert (observed.count, observed.masked) == (everything.size, 0)
        logs = np.log2(np.abs(everything[everything != 0].astype(np.float64)))
        assert observed.typical == pytest.approx(2 ** logs.mean(), rel=1e-5)


def test_the_order_of_samples_does_not_matter() -> None:
    made = samples(6, x=(2, 4))
    one = calibrate(ir.from_proto(net()), ["h"], open_source(made))["h"]
    other = calibrate(ir.from_proto(net()), ["h"], open_source(made[::-1]))["h"]
    assert (one.lo, one.hi, one.count, one.masked) == (other.lo, other.hi, other.count, other.masked)
    assert one.typical == pytest.approx(other.typical, rel=1e-5)


def test_samples_of_different_shapes_mix() -> None:
    made = [s for n in (1, 5, 2) for s in samples(1, seed=n, x=(n, 4))]
    observed = calibrate(ir.from_proto(net()), ["h"], open_source(made))["h"]
    everything = reference(net(), made, "h")
    assert (observed.lo, observed.hi, observed.count) == (everything.min(), everything.max(), 8 * 5)


@pytest.mark.parametrize("values", [["x"], ["x", "h"]], ids=str)
def test_graph_inputs_can_be_observed_with_and_without_others(values: list[str]) -> None:
    made = samples(4, x=(2, 4))
    ranges = calibrate(ir.from_proto(net()), values, open_source(made))
    assert sorted(ranges) == sorted(values)
    everything = np.concatenate([s["x"].reshape(-1) for s in made])
    assert (ranges["x"].lo, ranges["x"].hi) == (everything.min(), everything.max())


def test_a_graph_input_is_observed_as_the_model_gets_it() -> None:
    made = [{"x": np.full((1, 4), 0.1, np.float64)}]
    observed = calibrate(ir.from_proto(net()), ["x"], open_source(made))["x"]
    assert observed.lo == float(np.float32(0.1))


def test_only_requested_values_are_observed() -> None:
    assert calibrate(ir.from_proto(net()), ["r"], open_source(samples(2, x=(1, 4)))).keys() == {"r"}


@pytest.mark.parametrize(("lengths", "count"), [((0, 0), None), ((0, 3), 3), ((2, 0, 1), 3)])
def test_empty_tensors_do_not_change_a_range(lengths: tuple[int, ...], count: int | None) -> None:
    graph = onnx.helper.make_graph(
        [node("Slice", ["x", "zero", "n"], ["s"]), node("Relu", ["s"], ["h"])],
        "sliced",
        [
            onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4]),
            onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, [1]),
        ],
        [onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["m"])],
        [onnx.numpy_helper.from_array(np.array([0]), "zero")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    made = [{"x": np.ones(4, np.float32), "n": np.array([n])} for n in lengths]
    ranges = calibrate(ir.from_proto(proto), ["h"], open_source(made))
    assert (ranges["h"].count if ranges else None) == count


def test_the_model_is_not_changed() -> None:
    graph = ir.from_proto(net())
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    calibrate(graph, ["h", "r"], open_source(samples(2, x=(1, 4))))
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


def test_a_model_too_large_for_one_message_is_calibrated_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made = samples(3, x=(2, 4))
    small = calibrate(ir.from_proto(net()), ["h"], open_source(made))
    monkeypatch.setattr(qtool.graph.save, "SIDE_FILE_BYTES", 16)
    assert calibrate(ir.from_proto(net()), ["h"], open_source(made)) == small


def test_nan_in_an_activation_is_refused_by_tensor_and_sample() -> None:
    made = [{"x": np.array([1.0], np.float32)}, {"x": np.array([2.0, -1.0], np.float32)}]
    with pytest.raises(DataError, match="NaN") as caught:
        calibrate(ir.from_proto(log_net()), ["h"], open_source(made))
    assert "'h'" in caught.value.message
    assert "samples/1" in caught.value.message
    assert caught.value.exit_code == 4


def test_infinity_in_an_activation_is_counted_not_refused() -> None:
    made = [{"x": np.array([0.0, 1.0], np.float32)}]  # log 0 = -inf
    observed = calibrate(ir.from_proto(log_net()), ["h"], open_source(made))["h"]
    assert (observed.masked, observed.lo, observed.hi) == (1, 0.0, 0.0)


def test_a_mask_among_the_inputs_is_counted_not_refused() -> None:
    made = [{"x": np.array([[-np.inf, 0.0, 0.0, 0.0]], np.float32)}]
    observed = calibrate(ir.from_proto(net()), ["x"], open_source(made))["x"]
    assert (observed.masked, observed.lo, observed.hi) == (1, 0.0, 0.0)


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        calibrate(ir.from_proto(net()), ["h"], InMemory([]))


def test_a_sample_that_does_not_fit_is_refused_by_its_name() -> None:
    made = [*samples(1, x=(1, 4)), *samples(1, x=(1, 3))]
    with pytest.raises(DataError, match="samples/1.*'x'"):
        calibrate(ir.from_proto(net()), ["h"], open_source(made))


def test_progress_counts_every_sample() -> None:
    steps: list[tuple[int, int]] = []
    calibrate(
        ir.from_proto(net()),
        ["h"],
        open_source(samples(3, x=(1, 4))),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
