"""The models that kernels are timed in."""

from __future__ import annotations

import onnx
import pytest

from qtool.plan.work import row_of, work_of
from qtool.runtime.kernels.graphs import draw, feeds
from qtool.runtime.session import Session
from qtool.tables.kernels import EDGES, KERNELS, Kernel, Kind
from tests.plan.test_work import graph_and_shapes

ALL = pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))
PLANNED = pytest.mark.parametrize(
    "kernel", [k for k in KERNELS.values() if k.row not in EDGES], ids=lambda k: k.row
)


@ALL
def test_the_smallest_of_each_kind_runs(kernel: Kernel) -> None:
    for kind in kernel.runs:
        proto = draw(kernel, kernel.sizes[0], kind)
        outputs = Session(proto.SerializeToString(), threads=1).run(feeds(kernel.sizes[0]))
        assert all(o.size for o in outputs)


@PLANNED
def test_graphs_belong_to_the_row_of_their_kernel(kernel: Kernel) -> None:
    """Else what was timed would be looked up elsewhere."""
    works = []
    for size in kernel.sizes:
        graph, shapes = graph_and_shapes(draw(kernel, size, Kind.FLOAT))
        node = next(n for n in graph if n.op_type == kernel.op and (n.outputs[0].name or "")[0] == "y")
        assert row_of(node, shapes) == kernel.row
        works.append(work_of(node, shapes))
    assert works == sorted(set(works)), "from the least work to the most"


def test_integers_are_quantized_as_qtool_writes_them() -> None:
    """u8 activations, s8 weights a channel, an int32 bias, scales of rank 0."""
    size = KERNELS["Conv/3x3"].sizes[0]
    proto = draw(KERNELS["Conv/3x3"], size, Kind.INT8)
    types = {i.name: i.data_type for i in proto.graph.initializer}
    ranks = {i.name: len(i.dims) for i in proto.graph.initializer}
    (conv,) = (n for n in proto.graph.node if n.op_type == "Conv")
    made = {n.output[0]: n for n in proto.graph.node}
    x, w, b = (made[name] for name in conv.input)
    assert [n.op_type for n in (x, w, b)] == ["DequantizeLinear"] * 3
    assert (types[w.input[0]], ranks[w.input[1]]) == (onnx.TensorProto.INT8, 1)
    assert (types[b.input[0]], ranks[b.input[1]]) == (onnx.TensorProto.INT32, 1)
    assert (types[x.input[2]], ranks[x.input[1]]) == (onnx.TensorProto.UINT8, 0)
