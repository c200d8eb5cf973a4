"""Types that are implied, against those that ONNX's own node tests declare."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

from qtool.graph.inspection.dtypes import bits, dtype_name, infer_dtypes, is_small_integer
from qtool.graph.inspection.read import inspect_source
from qtool.graph.inspection.walk import walk
from qtool.graph.load import from_model

# Given by attributes of its own, and by a body that makes sequences.
_UNTOLD = {"LabelEncoder", "Loop"}


@pytest.mark.nightly
def test_every_node_test_of_onnx_is_inspected_and_typed() -> None:
    """With the declared types of all results taken away, they are found again."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, on the way to expected outputs
        models = [case.model for case in collect_testcases(None) if case.model is not None]
    wrong: Counter[tuple[str, str, str]] = Counter()
    right = 0
    for proto in models:
        source = from_model(proto)
        result = inspect_source(source)
        assert sum(result.computes.values()) == result.nodes > 0
        results = {v: v.dtype for n in source.model.graph for v in n.outputs if v.dtype is not None}
        for value in results:
            value.type = None
        expected = infer_dtypes(source.model, walk(source.model))
        for value, dtype in results.items():
            op = value.producer().op_type
            if expected.of(value) == dtype:
                right += 1
            elif op not in _UNTOLD:
                wrong[op, str(dtype), str(expected.of(value))] += 1
    assert right > 2000
    assert not wrong


@pytest.mark.parametrize(
    ("name", "width", "small"),
    [("FLOAT", 32, False), ("INT4", 4, True), ("UINT8", 8, True), ("BOOL", 8, False), ("STRING", 0, False)],
)
def test_widths(name: str, width: int, small: bool) -> None:
    import onnx_ir as ir

    assert (bits(ir.DataType[name]), is_small_integer(ir.DataType[name])) == (width, small)


def test_types_have_their_usual_names() -> None:
    import onnx_ir as ir

    names = [dtype_name(ir.DataType[n]) for n in ("FLOAT", "DOUBLE", "BFLOAT16", "FLOAT8E4M3FN", "UINT4")]
    assert names == ["float32", "float64", "bfloat16", "float8e4m3fn", "uint4"]
    assert dtype_name(None) == "unknown"
