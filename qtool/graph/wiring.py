"""Who feeds whom in a file that is only looked at, such as the graph that the runtime makes of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

Wiring = Mapping[str, tuple[str, str]]
"""Node -> the node that makes its first input, and the first that reads its first output; '' for none."""


def wiring(path: Path) -> Wiring:
    """The wiring of a model's main graph.

    Args:
        path: a file that our own session wrote: it may hold operators that no checker knows.
    """
    graph = onnx.load(path, load_external_data=False).graph
    producers = {value: node.name for node in graph.node for value in node.output}
    readers: dict[str, str] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, node.name)
    return {
        node.name: (producers.get(node.input[0] if node.input else "", ""), readers.get(node.output[0], ""))
        for node in graph.node
    }
