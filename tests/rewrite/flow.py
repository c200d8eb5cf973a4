"""Rewriting and running, for tests: the oracles are onnxruntime with and without its optimizations."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from qtool.graph.save import to_bytes
from qtool.plan.candidate import Candidate
from qtool.plan.model import Plan
from qtool.rewrite.write import rewrite
from qtool.runtime.session import Session
from qtool.tables.targets import Target
from tests.plan.flow import Sample, candidate
from tests.rewrite.zoo import CASES

# The reference lacks the DequantizeLinear of earlier opsets.
FIRST_REFERENCE_OPSET = 19

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Written:
    """A rewritten model, with what it came from."""

    original: onnx.ModelProto
    samples: Sequence[Sample]
    candidate: Candidate
    data: bytes

    @property
    def plan(self) -> Plan:
        return self.candidate.plan

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.data)


def write(proto: onnx.ModelProto, samples: Sequence[Sample], target: str | Target, **options: Any) -> Written:
    """Quantize in memory, without timing, so that speed decides nothing."""
    done = candidate(proto, samples, target, **options)
    return Written(proto, samples, done, to_bytes(rewrite(done.model.model, done.plan)))


@cache
def written(case: str, target: str) -> Written:
    """A case of the zoo, quantized once a process."""
    row = CASES[case]
    return write(row.build(), row.samples(), target)


def run(model: bytes | onnx.ModelProto, samples: Sequence[Sample], optimize: bool = True) -> list[Outputs]:
    """All outputs for all samples, in onnxruntime."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = Session(data, threads=1, optimize=optimize)
    return [dict(zip(session.outputs, session.run(s), strict=True)) for s in samples]


def evaluate(model: bytes, samples: Sequence[Sample]) -> list[Outputs]:
    """All outputs for all samples, in onnx's reference implementation."""
    proto = onnx.load_from_string(model)
    if proto.opset_import[0].version < FIRST_REFERENCE_OPSET:
        proto = onnx.version_converter.convert_version(proto, FIRST_REFERENCE_OPSET)
    evaluator = ReferenceEvaluator(proto)
    return [dict(zip(evaluator.output_names, evaluator.run(None, dict(s)), strict=True)) for s in samples]


def sqnr(a: Sequence[Outputs], b: Sequence[Outputs]) -> float:
    """SQNR in dB of the worst floating output, pooled over samples: by numpy, apart from qtool's own."""
    worst = np.inf
    for name in a[0]:
        x, y = (np.concatenate([np.ravel(o[name]).astype(np.float64) for o in part]) for part in (a, b))
        noise = np.sum((x - y) ** 2)
        if noise != 0:
            worst = min(worst, 10 * np.log10(np.sum(x**2) / noise))
    return float(worst)


def ran(model: bytes) -> Counter[str]:
    """The op types that onnxruntime runs, and how many of each; those of subgraphs, too."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return Counter(_types(onnx.load(options.optimized_model_filepath).graph))


def _types(graph: onnx.GraphProto) -> list[str]:
    inner = [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [n.op_type for n in graph.node] + [t for g in inner for t in _types(g)]
