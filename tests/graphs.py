"""Tiny real graphs for the tests, built in a line or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str | None]

ROOT = Path(__file__).parent.parent
SAMPLE_MODELS = ROOT / "sample_models"
SHARED_MODELS = ROOT.parent / "shared" / "models"


def node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any
) -> onnx.NodeProto:
    """A node named after its first output unless told."""
    return helper.make_node(op, list(inputs), list(outputs), name=name or f"{op}_{outputs[0]}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] | Mapping[str, Shape],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    input_type: int = TensorProto.FLOAT,
    output_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A checked model; float32 in and out unless told. Outputs named without a shape get the inferred one."""
    shapes = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(k, input_type, list(v)) for k, v in inputs.items()],
        [helper.make_tensor_value_info(k, output_type, v) for k, v in shapes.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    if not isinstance(outputs, Mapping):
        inferred = onnx.shape_inference.infer_shapes(made).graph.output
        for output, value in zip(made.graph.output, inferred, strict=True):
            output.type.tensor_type.shape.CopyFrom(value.type.tensor_type.shape)
    onnx.checker.check_model(made)
    return made


def rng(seed: int = 0) -> np.random.Generator:
    """The tests' random numbers are always the same."""
    return np.random.default_rng(seed)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Float32 weights of a plausible size."""
    return (rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def samples(count: int, seed: int = 1, **shapes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Random float32 samples: input name -> shape."""
    random = rng(seed)
    return [
        {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()} for _ in range(count)
    ]


def write_samples(folder: Path, made: Sequence[Mapping[str, np.ndarray]]) -> Path:
    """Samples as a directory of .npz files."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, sample in enumerate(made):
        np.savez(folder / f"{index:03}.npz", **sample)
    return folder
