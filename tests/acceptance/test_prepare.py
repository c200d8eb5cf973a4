"""prepare is exact: the same results to float rounding, on every model at hand."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest

from qtool.data.fit import fit
from qtool.data.open import open_source
from qtool.graph.load import from_model, load
from qtool.graph.prepare import prepare
from qtool.graph.save import to_bytes
from qtool.runtime.session import Session
from tests.graphs import SAMPLE_MODELS, SHARED_MODELS
from tests.tiers import in_turn, sample

FOLDERS = sorted(p.parent for root in (SAMPLE_MODELS, SHARED_MODELS) for p in root.glob("*/model.onnx"))
SAMPLES = 6
TOLERANCE = 1e-4  # of the largest magnitude of the output


@pytest.mark.parametrize(
    ("folder", "onnxruntime"), in_turn(FOLDERS, [True, False]), ids=lambda v: getattr(v, "name", v)
)
def test_prepared_equals_original(folder: Path, onnxruntime: bool) -> None:
    source = load(folder / "model.onnx")
    prepared = prepare(source.model, onnxruntime=onnxruntime)
    a = Session(folder / "model.onnx", threads=1)
    b = Session(to_bytes(prepared.model), threads=1)
    assert a.outputs == b.outputs
    assert set(b.inputs) == {name for name in a.inputs if name in b.inputs}
    data = open_source(folder / "eval")
    for each in islice(data.read(set(range(0, len(data), max(1, len(data) // SAMPLES)))), SAMPLES):
        expected = a.run(fit(each, a.inputs, a.input_dtypes, data.name))
        got = b.run(fit(each, b.inputs, b.input_dtypes, data.name))
        for name, x, y in zip(a.outputs, expected, got, strict=True):
            x, y = np.asarray(x), np.asarray(y)
            assert (x.shape, x.dtype) == (y.shape, y.dtype), name
            if x.dtype.kind == "f":
                limit = TOLERANCE * np.abs(x).max(initial=0)
                assert np.abs(x.astype(float) - y.astype(float)).max(initial=0) <= limit, (name, each.name)
            else:
                np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("folder", sample(FOLDERS, 5), ids=lambda p: p.name)
def test_a_model_handed_over_in_memory_is_not_changed(folder: Path) -> None:
    proto = onnx.load(folder / "model.onnx")
    before = proto.SerializeToString(deterministic=True)
    prepare(from_model(proto).model, onnxruntime=True)
    assert proto.SerializeToString(deterministic=True) == before
