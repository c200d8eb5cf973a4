"""The forward pass in torch: equal to onnxruntime, and its gradients to finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper

from qtool.recover.finetune.forward import Forward
from qtool.runtime.session import Session
from tests.graphs import ROOT

# Op, attributes, the shapes of its float inputs (those below 0 are constants of integers), and its opset.
Case = tuple[str, dict[str, Any], Sequence[Any], int]
IMAGE, BATCH = (2, 4, 7, 6), (2, 3, 5)
CASES: list[Case] = [
    ("Conv", {"pads": [1, 0, 0, 2], "strides": [2, 1], "group": 2}, [IMAGE, (6, 2, 3, 3), (6,)], 17),
    ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, [IMAGE, (2, 4, 2, 3)], 17),
    ("Conv", {"dilations": [2], "pads": [2, 1]}, [BATCH, (4, 3, 2)], 17),
    (
        "ConvTranspose",
        {"strides": [2, 2], "pads": [1, 1, 0, 0], "output_padding": [1, 0]},
        [IMAGE, (4, 3, 3, 2), (3,)],
        17,
    ),
    ("ConvTranspose", {"strides": [2, 2], "output_shape": [13, 12], "group": 2}, [IMAGE, (4, 2, 3, 3)], 17),
    (
        "MaxPool",
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
        [IMAGE],
        17,
    ),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, [IMAGE], 17),
    ("AveragePool", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1}, [IMAGE], 17),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1}, [IMAGE], 19),
    ("GlobalAveragePool", {}, [IMAGE], 17),
    ("GlobalMaxPool", {}, [IMAGE], 17),
    ("Gemm", {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, [(4, 3), (5, 4), (5,)], 17),
    ("MatMul", {}, [BATCH, (5, 4)], 17),
    (
        "LSTM",
        {"hidden_size": 3, "direction": "bidirectional"},
        [(4, 2, 5), (2, 12, 5), (2, 12, 3), (2, 24)],
        17,
    ),
    ("LSTM", {"hidden_size": 3, "direction": "reverse"}, [(4, 2, 5), (1, 12, 5), (1, 12, 3)], 17),
    ("BatchNormalization", {}, [IMAGE, (4,), (4,), (4,), np.ones(4, np.float32)], 17),
    ("InstanceNormalization", {}, [IMAGE, (4,), (4,)], 17),
    ("LayerNormalization", {"axis": -2}, [BATCH, (3, 5), (3, 5)], 17),
    ("Gelu", {}, [BATCH], 20),
    ("Gelu", {"approximate": "tanh"}, [BATCH], 20),
    ("Softmax", {"axis": 1}, [BATCH], 17),
    ("Softmax", {"axis": 1}, [BATCH], 11),
    ("LogSoftmax", {}, [BATCH], 17),
    ("PRelu", {}, [BATCH, (3, 1)], 17),
    ("Clip", {}, [BATCH, np.float32(-0.5), np.float32(0.7)], 17),
    ("Slice", {}, [BATCH, np.array([4, 1]), np.array([-9, 3]), np.array([2, 1]), np.array([-2, 1])], 17),
    ("Pad", {"mode": "reflect"}, [BATCH, np.array([0, 1, 2, 1, 0, 2])], 17),
    ("Pad", {}, [BATCH, np.array([1, -1]), np.float32(3), np.array([2])], 18),
    ("Gather", {"axis": 1}, [BATCH, np.array([[0, -1], [2, 0]])], 17),
    ("Split", {"axis": 2, "num_outputs": 2}, [BATCH], 18),
    ("Reshape", {}, [BATCH, np.array([0, -1])], 17),
    ("Flatten", {"axis": 2}, [BATCH], 17),
    ("Squeeze", {}, [(1, 3, 1)], 17),
    ("Unsqueeze", {}, [BATCH, np.array([-1, 0])], 17),
    ("Expand", {}, [(3, 1), np.array([2, 1, 4])], 17),
    ("Tile", {}, [(3, 2), np.array([2, 2])], 17),
    ("Transpose", {"perm": [2, 0, 1]}, [BATCH], 17),
    ("Concat", {"axis": -1}, [BATCH, (2, 3, 2)], 17),
    ("Where", {}, [np.array([True, False, True, True, False]), BATCH, (5,)], 17),
    ("ReduceMean", {"axes": [-1], "keepdims": 0}, [BATCH], 17),
    ("ReduceSum", {}, [BATCH, np.array([0, 2])], 17),
    ("ReduceL2", {}, [BATCH], 17),
    ("ReduceMax", {"axes": [1]}, [BATCH], 17),
    ("Max", {}, [BATCH, (5,), (3, 1)], 17),
    ("Sum", {}, [BATCH, (5,), (3, 1)], 17),
    ("Pow", {}, [np.float32([1.5, 2.5]), (2,)], 17),
    ("Pow", {}, [BATCH, np.float32(2)], 17),
    ("HardSigmoid", {"alpha": 0.3}, [BATCH], 17),
    *(
        (op, {}, [BATCH], 17)
        for op in (
            "HardSwish",
            "LeakyRelu",
            "Elu",
            "Celu",
            "Selu",
            "Softplus",
            "Softsign",
            "Sigmoid",
            "Tanh",
            "Erf",
            "Exp",
            "Abs",
            "Sin",
            "Cos",
            "Relu",
            "Reciprocal",
        )
    ),
    *((op, {}, [BATCH, (5,)], 17) for op in ("Add", "Sub", "Mul", "Div", "Min")),
    ("Sqrt", {}, [np.float32([0.5, 2, 3])], 17),
    ("Mish", {}, [BATCH], 18),
    ("Swish", {"alpha": 0.5}, [BATCH], 24),
]


def of_one(case: Case) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one op; its float inputs are fed, others are constants."""
    op, attributes, inputs, opset = case
    rng = np.random.default_rng(len(op))
    arrays = [
        x if isinstance(x, np.ndarray | np.generic) else rng.normal(size=x).astype(np.float32) for x in inputs
    ]
    names = [f"x{i}" for i in range(len(arrays))]
    fed = {n: a for n, a, x in zip(names, arrays, inputs, strict=True) if isinstance(x, tuple)}
    outputs = {"LSTM": ["y", "h", "c"], "Split": ["y", "z"]}.get(op, ["y"])
    node = helper.make_node(
        op, [n for n in names if not (op == "LSTM" and n in fed and n > "x3")], outputs, **attributes
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in fed.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [
            onnx.numpy_helper.from_array(np.asarray(a), n)
            for n, a in zip(names, arrays, strict=True)
            if n not in fed
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), fed


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{c[3]}-{len(c[1])}-{len(c[2])}")
def test_an_op_equals_onnxruntime_and_its_gradient_finite_differences(case: Case) -> None:
    proto, fed = of_one(case)
    model = ir.from_proto(proto)
    expected = Session(proto.SerializeToString()).run(fed)
    got = Forward(model).outputs(fed)
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(b.numpy(), a, rtol=1e-4, atol=1e-5)
    if not fed:
        return
    exact = Forward(model, dtype=torch.float64)

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = dict(zip(fed, tensors, strict=True))
        exact.run(values)
        return tuple(exact.value(v, values) for v in model.graph.outputs)

    inputs = [torch.from_numpy(a).double().requires_grad_() for a in fed.values()]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("name", ["cnn", "transformer", "lstm", "detector"])
def test_a_prepared_model_equals_onnxruntime(name: str) -> None:
    from qtool.graph.load import load
    from qtool.graph.prepare import prepare

    folder = ROOT / "sample_models" / name
    model = prepare(load(folder / "model.onnx").model, onnxruntime=True).model
    session = Session(ir.to_proto(model).SerializeToString())
    forward = Forward(model)
    with np.load(next(iter(sorted((folder / "calib").glob("*.npz"))))) as sample:
        for a, b in zip(session.run(dict(sample)), forward.outputs(dict(sample)), strict=True):
            np.testing.assert_allclose(b.detach().numpy(), a, rtol=1e-4, atol=1e-4)
