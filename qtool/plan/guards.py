"""Where the runtime would quantize on its own, and must be kept from it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from qtool.graph.view import constant, float_constant, sole_consumer
from qtool.plan.model import Use
from qtool.plan.placed import Placed
from qtool.tables.ops import OPS, Q_MOVES_UP_THROUGH, SLOW_BETWEEN_DQ_AND_Q, Role

# Between a weighted op and a Q, the runtime looks through these.
_LOOKED_THROUGH = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Add")


def needs_guard(value: ir.Value, uses: Sequence[Use], placed: Placed, *, integer: bool = False) -> bool:
    """Whether a Q on a value that is made in float would set the runtime's own quantization off.

    Three of its optimizers do it (seen in 1.31): WeightBiasQuantization quantizes, per tensor and
    without being asked, a float Conv, Gemm or MatMul that stands between a DQ and a Q; QDQPropagation
    pulls the Q up through a float MaxPool, which then runs in int8, many times slower; and
    QDQSelectorActionTransformer does the like to an AveragePool or a Softmax between a DQ and that Q.
    And what stays float for an attribute that its integer kernel lacks is fused all the same, and fails: that
    is met on any target, since whatever is written should run there.
    Each needs every value on the way to have one reader only: for the value itself that will be the Q,
    when all its readers (`uses`) go on behind it. `integer`: it is an output that is handed out as the
    Q's integers, so that nobody else reads it.
    """
    own = placed.scheme.target.onnxruntime
    if not integer and (value.is_graph_output() or len(value.uses()) > len(uses)):
        return False
    while True:
        producer = value.producer()
        if producer is None or producer.name in placed.chosen:
            return False
        if producer.op_type in ("MaxPool", "GlobalMaxPool"):
            return own
        rule = OPS.get(producer.op_type)
        if rule is not None and any(a in producer.attributes for a in rule.unless):
            return True
        if producer.op_type in SLOW_BETWEEN_DQ_AND_Q and _is_in_int8(producer.inputs[0], placed):
            return own
        if rule is not None and rule.role is Role.WEIGHTED:
            weighs = float_constant(producer.inputs[1]) is not None
            return own and weighs and _is_in_int8(producer.inputs[0], placed)
        if producer.op_type not in Q_MOVES_UP_THROUGH and producer.op_type not in _LOOKED_THROUGH:
            return False
        computed = [v for v in producer.inputs if v is not None and constant(v) is None]
        if len(computed) != 1 or sole_consumer(computed[0]) is None:
            return False
        value = computed[0]


def _is_in_int8(value: ir.Value | None, placed: Placed) -> bool:
    return value is not None and placed.in_int8(value)
