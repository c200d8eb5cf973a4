"""Remove redundant Casts between float16 and float32.

The writer puts a Cast on every boundary of the plan, whatever Casts are there already. Those that cancel out
or repeat another are removed here; no value changes its type.
"""

from __future__ import annotations

import onnx_ir as ir

from qtool.graph.edit import Namer, take_output_name
from qtool.graph.view import is_op, is_read

_FLOAT, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16


def tidy_casts(model: ir.Model, namer: Namer) -> None:
    """Remove, in place:

    1. a Cast to the type that the value has;
    2. Casts from float16 to float32 and back (float32 to float16 and back rounds, which may be intended);
    3. a second Cast of one value to one type in one graph;
    4. a Cast without consumers.
    """
    casts = [n for n in model.graph.all_nodes() if _source(n) is not None]
    first: dict[tuple[int, int, int], ir.Value] = {}
    for node in casts:
        source, made = _source(node), node.outputs[0]
        if source is None:
            continue
        before = source.producer()
        origin = _source(before) if before is not None else None
        if (
            made.dtype == _FLOAT16
            and source.dtype == _FLOAT
            and origin is not None
            and origin.dtype == _FLOAT16
        ):
            source = origin  # 2
        if source.dtype == made.dtype:
            _bypass(node, source, namer)  # 1, 2
            continue
        key = (id(source), int(made.dtype or 0), id(node.graph))
        if first.setdefault(key, made) is not made:
            _bypass(node, first[key], namer)  # 3
    for node in reversed(casts):
        if node.graph is not None and not is_read(node.outputs[0]):
            node.graph.remove(node, safe=True)  # 4


def _source(node: ir.Node) -> ir.Value | None:
    """Return the input of a Cast between float16 and float32; None for any other node."""
    if not is_op(node, "Cast") or node.graph is None:
        return None
    ends = (node.inputs[0], node.outputs[0])
    return ends[0] if all(v is not None and v.dtype in (_FLOAT, _FLOAT16) for v in ends) else None


def _bypass(node: ir.Node, source: ir.Value, namer: Namer) -> None:
    """Let all consumers read the source instead. A graph output keeps its name, by an Identity if need be."""
    made = node.outputs[0]
    if made.is_graph_output():
        producer = source.producer()
        if producer is None or producer.graph is not node.graph or source.is_graph_output():
            node.op_type = "Identity"
            node.attributes.clear()
            node.replace_input_with(0, source)
            return
        take_output_name(made, source, namer)
    made.replace_all_uses_with(source)
