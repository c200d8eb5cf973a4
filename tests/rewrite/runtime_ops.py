"""What onnxruntime makes of a model: the ops that it runs, subgraphs' too."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime


def ran(model: bytes) -> Counter[str]:
    """Op types of the optimized graph and how many of each."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Counter(_types(onnx.load(options.optimized_model_filepath).graph))


def _types(graph: onnx.GraphProto) -> list[str]:
    inner = [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [n.op_type for n in graph.node] + [t for g in inner for t in _types(g)]
