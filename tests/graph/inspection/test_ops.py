"""The table of quantized ops against the schemas of onnx and of onnxruntime."""

from __future__ import annotations

import onnx
import onnxruntime.capi.onnxruntime_pybind11_state as ort
import pytest

from qtool.graph.inspection.ops import MICROSOFT, QUANTIZED_OPS, QuantizedOp

_CONTRIB = {s.name: s for s in ort.get_all_operator_schema() if s.domain == "com.microsoft"}
# What the inputs that are no data are called.
_PARAMETERS = ("scale", "zero_point", "absmax", "zero_points")


def input_names(row: QuantizedOp) -> list[str]:
    if row.op.startswith(MICROSOFT):
        return [i.name.lower() for i in _CONTRIB[row.op.removeprefix(MICROSOFT)].inputs]
    return [i.name.lower() for i in onnx.defs.get_schema(row.op, 21).inputs]


@pytest.mark.parametrize("row", QUANTIZED_OPS.values(), ids=QUANTIZED_OPS)
def test_a_weight_slot_is_never_that_of_a_scale_or_zero_point(row: QuantizedOp) -> None:
    names = input_names(row)
    weights = [names[i] for i in row.weights if i < len(names)]
    assert weights
    assert not [n for n in weights if any(p in n for p in _PARAMETERS)]


@pytest.mark.parametrize("row", QUANTIZED_OPS.values(), ids=QUANTIZED_OPS)
def test_every_weight_and_bias_has_a_slot(row: QuantizedOp) -> None:
    """By the names that the schemas use for them."""
    names = input_names(row)
    looks = {
        i for i, n in enumerate(names) if n in ("w", "r", "b", "weight", "bias") or n.endswith("_weights")
    }
    assert looks - {14 if row.op.endswith("QMoE") else -1} <= set(row.weights)


@pytest.mark.parametrize("row", QUANTIZED_OPS.values(), ids=QUANTIZED_OPS)
def test_the_slots_exist(row: QuantizedOp) -> None:
    names = input_names(row)
    variadic = row.op.endswith("QLinearConcat")
    assert variadic or max((*row.weights, *row.wide, *row.typed_by)) < len(names)
    assert set(row.wide) <= set(row.weights)
    if row.packed:
        assert row.packed in (*_CONTRIB[row.op.removeprefix(MICROSOFT)].attributes, "bits")
