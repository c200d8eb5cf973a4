"""Models that other tools quantized (fixtures/make.py): their scales stay, and every layer runs in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qtool.plan.model import Kind
from tests.graphs import rng
from tests.rewrite.flow import run, sqnr, write

FILES = sorted((Path(__file__).parent / "fixtures").glob("*.onnx"))


def scales(proto: onnx.ModelProto) -> set[float]:
    """The scales of a model's activations."""
    quantizers = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    arrays = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    arrays |= {
        n.output[0]: numpy_helper.to_array(n.attribute[0].t)
        for n in proto.graph.node
        if n.op_type == "Constant" and n.attribute[0].name == "value"
    }
    return {float(arrays[n.input[1]].ravel()[0]) for n in quantizers if arrays[n.input[1]].size == 1}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_scales_stay_and_every_layer_is_in_int8(file: Path) -> None:
    proto = onnx.load(file)
    (port,) = proto.graph.input
    shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
    fed = [{port.name: rng(i).standard_normal(shape).astype(np.float32)} for i in range(4)]
    done = write(proto, fed, "cpu", include=["*"])
    view = done.candidate.model.view
    layers = [n.name for n in view.nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(layers) == 4
    assert set(layers) <= done.plan.forms.keys()
    weights = [s for s in done.plan.sites if s.kind is Kind.WEIGHT]
    assert all(s.integers is not None for s in weights)
    used = {float(s.qparams.scale) for s in done.plan.sites if s.kind is Kind.ACTIVATION and s.qparams}
    assert len(used & scales(proto)) >= 4
    # In floats between Q and DQ: int8 kernels saturate on a CPU without VNNI.
    assert sqnr(run(proto, fed, optimize=False), run(done.data, fed, optimize=False)) > 30
