"""Time the runtime's overhead per node."""

from __future__ import annotations

import time

import numpy as np
from onnx import TensorProto, helper

from qtool.runtime.kernels.graphs import IR_VERSION, OPSET
from qtool.runtime.session import Session, running

_NODES = 64
_RUNS = 20


def seconds_a_node(threads: int, turns: int) -> float:
    """Return the seconds of a node without its kernel, in the fastest turn, from a chain of trivial nodes.

    Raises:
        ModelError, RuntimeFailure: the runtime refuses or fails.
    """
    short, long = (Session(_chain(n), threads=threads, name="a chain of nodes") for n in (1, 1 + _NODES))
    seconds = [(_fastest(long) - _fastest(short)) / _NODES for _ in range(turns)]
    return max(min(seconds), 1e-9)


def _chain(nodes: int) -> bytes:
    names = ["x", *(f"v{i}" for i in range(nodes))]
    graph = helper.make_graph(
        [helper.make_node("Neg", [names[i]], [names[i + 1]]) for i in range(nodes)],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [1])],
    )
    imports = [helper.make_opsetid("", OPSET)]
    data: bytes = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION).SerializeToString()
    return data


def _fastest(session: Session) -> float:
    """Return the seconds of the fastest of some runs."""
    sample, clock, best = {"x": np.ones(1, np.float32)}, time.perf_counter, float("inf")
    with running(session):
        for _ in range(_RUNS):
            begin = clock()
            session.run(sample)
            best = min(best, clock() - begin)
    return best
