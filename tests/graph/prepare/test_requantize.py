"""A quantized model is taken back to floats: what it computes stays, but for the grids of its activations."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.graph.load import from_proto
from qtool.graph.prepare import REQUANTIZE_PASSES, prepare
from qtool.graph.save import to_bytes
from qtool.plan.model import Kind, Plan
from tests.graph.prepare.alike import all_ops, applied
from tests.graphs import model, node, rng, samples, weights
from tests.rewrite.flow import run, sqnr, write, written

REQUANTIZE = {
    "static": {},
    "static 16 bits": {"acts": "uint16", "weights": "int16"},
    "dynamic": {"mode": "dynamic"},
    "weight-only 8": {"mode": "weight-only"},
    "weight-only 4": {"mode": "weight-only", "bits": 4},
}


def net() -> onnx.ModelProto:
    """Conv, Relu and a product, large enough that every mode stores their weights."""
    return model(
        [
            node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "w", "b"], ["y"]),
        ],
        {"x": (2, 16, 8, 8)},
        ["y"],
        {"k": weights(32, 16, 3, 3), "w": weights(32, 64, seed=1), "b": weights(64, seed=2)},
    )


def restored(data: bytes) -> ir.Model:
    return applied(onnx.load_from_string(data), *REQUANTIZE_PASSES)[0]


@pytest.mark.parametrize("target", ["cpu", "generic"])
@pytest.mark.parametrize("requantize", REQUANTIZE)
def test_quantized_models_are_dequantized(requantize: str, target: str) -> None:
    fed = samples(4, x=(2, 16, 8, 8))
    quantized = write(net(), fed, target, **REQUANTIZE[requantize])
    floats = restored(quantized.data)
    if "MatMulInteger" in all_ops(floats):
        return  # has no float form here
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(all_ops(floats))
    kept = {v.name: v.const_value for v in floats.graph.initializers.values()}
    assert {"k", "w"} <= {name.split("_")[0] for name in kept}
    assert all(t.dtype == ir.DataType.FLOAT for t in kept.values() if t is not None and t.size > 64)
    # What is left of the difference is the activations' grids. Computed in float: int8 kernels saturate on a
    # CPU without VNNI, which cost 20 dB here on an EPYC that has AVX2 alone.
    assert sqnr(run(quantized.data, fed, optimize=False), run(to_bytes(floats), fed)) >= 35


def picked_rows() -> onnx.ModelProto:
    """Rows of an int8 table, made floats by one DequantizeLinear, as onnxruntime's quantize_dynamic has it."""
    table = rng().integers(-127, 127, (512, 64)).astype(np.int8)
    nodes = [node("Gather", ["t", "ids"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    constants = {"t": table, "s": np.float32(0.02), "z": np.int8(3)}
    return model(nodes, {"ids": (2, 5)}, ["y"], constants, input_type=onnx.TensorProto.INT64)


@pytest.mark.parametrize("made_by", ["qtool", "onnxruntime"])
def test_a_table_whose_rows_are_picked_is_dequantized(made_by: str) -> None:
    fed = [{"ids": rng(i).integers(0, 512, (2, 5))} for i in range(3)]
    proto = picked_rows()
    if made_by != "onnxruntime":
        table = {"t": weights(512, 64)}
        proto = model([node("Gather", ["t", "ids"], ["y"])], {"ids": (2, 5)}, ["y"], table, input_type=onnx.TensorProto.INT64)  # fmt: skip
        proto = onnx.load_from_string(write(proto, fed, "cpu", mode="weight-only").data)
        assert {"Cast", "Mul"} <= {n.op_type for n in proto.graph.node}
    floats = restored(proto.SerializeToString())
    assert all_ops(floats) == ["Gather"]
    assert sqnr(run(proto, fed), run(to_bytes(floats), fed)) > 120
    assert write(proto, fed, "cpu", mode="weight-only", requantize=True).plan.sites


def test_it_can_be_quantized_anew_where_its_scales_would_be_kept() -> None:
    once = written("residual", "cpu")
    proto = onnx.load_from_string(once.data)
    other = [{name: array * 2 for name, array in sample.items()} for sample in once.samples]
    kept, repeated = write(proto, other, "cpu"), write(proto, other, "cpu", requantize=True)
    assert scales(kept.plan) == scales(once.plan)
    assert scales(repeated.plan) != scales(once.plan)
    assert repeated.plan.forms == kept.plan.forms


def scales(plan: Plan) -> list[float]:
    """The scales of the activations, smallest first."""
    kinds = (s for s in plan.sites if s.kind is Kind.ACTIVATION and s.qparams is not None)
    return sorted({float(s.qparams.scale) for s in kinds if s.qparams is not None})


@pytest.mark.parametrize(("zero", "clamped"), [(0, True), (128, False)])
def test_a_relu_that_the_grid_has_swallowed_is_written_out(zero: int, clamped: bool) -> None:
    constants = {"s": np.float32(0.004), "z": np.uint8(zero), "w": weights(4, 4)}
    proto = model(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("QuantizeLinear", ["m", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("MatMul", ["d", "w"], ["y"]),
        ],
        {"x": (3, 4)},
        ["y"],
        constants,
    )
    made = prepare(from_proto(proto), requantize=True).model
    assert all_ops(made) == (["MatMul", "Clip", "MatMul"] if clamped else ["MatMul", "MatMul"])
    fed = samples(3, x=(3, 4))
    assert sqnr(run(proto, fed), run(to_bytes(made), fed)) >= 20


def test_dequantization_is_optional() -> None:
    once = written("residual", "cpu")
    made = prepare(from_proto(onnx.load_from_string(once.data))).model
    assert "DequantizeLinear" in all_ops(made)


def test_a_model_in_floats_is_left_alone() -> None:
    _, note = applied(net(), *REQUANTIZE_PASSES[:-1])
    assert note == ""
