"""Each integer operator against the QDQ form that it replaces, and the tables of operators."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from itertools import product as product_types

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qtool.errors import ModelError
from qtool.runtime.session import Session
from qtool.tables.ops import OPS, Role
from qtool.tables.qoperators import (
    ELEMENTWISE,
    MATMUL_INTEGER,
    MATMUL_INTEGER_TO_FLOAT,
    MICROSOFT,
    MOVES,
    Q_GEMM,
    QLINEAR_CONV,
    QLINEAR_MATMUL,
    Product,
)
from tests.rewrite.flow import FIRST_REFERENCE_OPSET, run
from tests.rewrite.qoperator.forms import (
    ALL,
    MOVED,
    SUM,
    SUM_BIAS,
    UNWEIGHTED,
    WEIGHTED,
    Op,
    Types,
    build,
    fuse,
)
from tests.tiers import in_turn

INTEGERS = frozenset("QLinearConv QLinearMatMul MatMulInteger MatMulIntegerToFloat QGemm".split())
PAIRS = {"u8-s8": ("u8", "s8"), "u8-u8": ("u8", "u8"), "s8-s8": ("s8", "s8"), "s8-u8": ("s8", "u8")}
# Each form with each pair of types, and a scale a channel or one for all in turn.
KEYS = [
    *(
        (name, Types(a, w, c))
        for name, (a, w), c in in_turn(product_types(WEIGHTED, PAIRS.values()), (True, False))
    ),
    *((name, Types(a)) for name, a in in_turn((*UNWEIGHTED, *MOVED), ("u8", "s8"))),
]


def label(key: tuple[str, Types]) -> str:
    name, types = key
    granularity = ["-tensor", "-channel"][types.per_channel] if name in WEIGHTED else ""
    return f"{name}-{types.act}{'-' + types.weight if name in WEIGHTED else ''}{granularity}"


@dataclass(frozen=True)
class Fused:
    """One op, in both forms."""

    op: Op
    types: Types
    contrib: bool
    qdq: onnx.ModelProto
    proto: onnx.ModelProto
    sample: dict[str, np.ndarray]
    steps: dict[str, float]

    def wanted(self) -> tuple[str, ...] | None:
        expected = self.op.contrib if self.contrib and self.op.contrib is not None else self.op.standard
        odd = (self.types.act, self.types.weight) == ("s8", "u8") and self.op.weight
        if not odd:
            return expected
        if self.op.op_type == "Conv":
            return None
        return SUM_BIAS if self.op.bias else SUM


def fused(name: str, types: Types, contrib: bool) -> Fused:
    qdq, sample, steps = build(ALL[name], types)
    return Fused(ALL[name], types, contrib, qdq, fuse(qdq, contrib), sample, steps)


@pytest.mark.parametrize("key", KEYS, ids=label)
def test_each_form(key: tuple[str, Types]) -> None:
    """Each op becomes what the table says, and computes what its QDQ form does, with and without contrib."""
    for contrib in (False, True):
        form = fused(*key, contrib)
        _becomes_what_the_table_says(form)
        for optimize in (True, False):
            far(form, run(form.proto, [form.sample], optimize)[0])
        if not contrib:
            assert {o.domain for o in form.proto.opset_import} <= {"", "ai.onnx"}
            has_reference = form.op.opset >= FIRST_REFERENCE_OPSET and key[0] not in BEYOND_THE_REFERENCE
            if has_reference and form.wanted() is not None:
                far(form, evaluate(form.proto, form.sample))


# The reference (onnx 1.23) has per-channel QLinearConv for images only, and pads integers with NaN.
BEYOND_THE_REFERENCE = ("conv-1d", "conv-3d", "max-pool-opset-22")


def evaluate(proto: onnx.ModelProto, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs in onnx's reference implementation."""
    evaluator = ReferenceEvaluator(proto)
    return dict(zip(evaluator.output_names, evaluator.run(None, sample), strict=True))


def far(form: Fused, got: dict[str, np.ndarray]) -> None:
    """Hold outputs against those of the QDQ form, as it is written."""
    expected = run(form.qdq, [form.sample], optimize=False)[0]
    assert expected.keys() == got.keys()
    for name, step in form.steps.items():
        assert expected[name].shape == got[name].shape
        off = np.abs(expected[name].astype(np.float64) - got[name]).max(initial=0)
        tolerance = step * (form.op.steps + 1e-3) if step else 1e-5 * np.abs(expected[name]).max(initial=0)
        assert off <= tolerance, off / (step or tolerance)


def _becomes_what_the_table_says(form: Fused) -> None:
    ran = Counter(n.op_type for n in form.proto.graph.node)
    wanted = form.wanted()
    if wanted is None:
        assert form.proto.graph == form.qdq.graph or ran == Counter(n.op_type for n in form.qdq.graph.node)
        return
    inputs, outputs = len(form.op.shapes), sum(s != 0 for s in form.steps.values())
    assert not Counter(wanted) - ran
    integers = set(wanted) & INTEGERS != {"MatMulInteger"}
    requantized = outputs and not integers
    assert ran["QuantizeLinear"] == inputs + bool(requantized)
    assert ran["DequantizeLinear"] == outputs
    assert set(ran) - {*wanted, *form.op.clamp} <= {"QuantizeLinear", "DequantizeLinear", "Clip"}


def test_every_op_that_passes_values_on_moves_integers_or_can_t() -> None:
    passing = {op for op, row in OPS.items() if row.role is Role.PASS}
    assert passing - MOVES.keys() == {"GlobalMaxPool", "com.microsoft::EmbedLayerNormalization"}


@pytest.mark.parametrize("opset", range(13, 27))
def test_onnx_has_the_moves_for_integers(opset: int) -> None:
    for op in MOVES:
        schema = onnx.defs.get_schema(op, opset)
        index = (MOVES[op] or (0,))[0]
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        assert {"tensor(uint8)", "tensor(int8)"} <= set(allowed[schema.inputs[index].type_str])


def test_the_moves_and_elementwise_operators_all_have_forms() -> None:
    assert {op.op_type for op in ALL.values()} >= MOVES.keys() | ELEMENTWISE.keys()


@pytest.mark.parametrize(
    "product",
    [QLINEAR_CONV, QLINEAR_MATMUL, MATMUL_INTEGER, MATMUL_INTEGER_TO_FLOAT, Q_GEMM],
    ids=lambda p: p.op_type,
)
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
def test_the_kernels_take_the_pairs_of_the_table_and_no_others(product: Product, optimize: bool) -> None:
    taken = set()
    for a, b in product_types("uint8 int8".split(), repeat=2):
        with contextlib.suppress(ModelError):
            Session(bare(product, a, b).SerializeToString(), optimize=optimize)
            taken.add((a, b))
    assert taken == product.pairs


def bare(product: Product, a: str, b: str) -> onnx.ModelProto:
    """One integer operator by itself, with a result of its own type, int32 or float."""
    shape = [1, 8, 6, 6] if product is QLINEAR_CONV else [5, 16]
    weight = [4, 8, 3, 3] if product is QLINEAR_CONV else [16, 4]
    scale, zeros = np.float32(0.1), {"za": np.zeros((), a), "zb": np.zeros((), b), "zy": np.zeros((), a)}
    result = helper.np_dtype_to_tensor_dtype(np.dtype(a))
    inputs = ["a", "s", "za", "b", "s", "zb", "s", "zy"]
    if product is MATMUL_INTEGER:
        inputs, result = ["a", "b", "za", "zb"], TensorProto.INT32
    elif product is MATMUL_INTEGER_TO_FLOAT:
        inputs, result = ["a", "b", "s", "s", "za", "zb"], TensorProto.FLOAT
    elif product is Q_GEMM:
        inputs = [*inputs[:6], "", *inputs[6:]]
    constants = {"s": scale, **zeros, "b": np.ones(weight, b)}
    graph = helper.make_graph(
        [helper.make_node(product.op_type, inputs, ["y"], domain=product.domain)],
        "bare",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(np.dtype(a)), shape)],
        [helper.make_tensor_value_info("y", result, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items() if k in inputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
