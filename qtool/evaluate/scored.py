"""Outputs that are scored by argmax: the axis of their classes, and what one decision is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.view import attribute_int, constant, is_op, opset_of, rank
from qtool.tables.judging import CLASSIFY, TaskName

# Ops that change the shape or the type of scores, and no order among them.
_PASSING = (
    "Identity", "Cast", "Dropout", "QuantizeLinear", "DequantizeLinear",
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
)  # fmt: skip
_SCORING = ("Softmax", "LogSoftmax")
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class Scored:
    """The scoring of an output by argmax.

    Args:
        task: a row of TASKS; '': `ctc` where FP32 mostly decides for the blank, else `classify`.
        axis: of the classes, counted from the end; None: the output holds class numbers (ArgMax).
        classes: number of classes where it holds class numbers; 0: unknown.
    """

    task: str
    axis: int | None = -1
    classes: int = 0


def scored_outputs(model: ir.Model, task: TaskName = "", class_axis: int | None = None) -> dict[str, Scored]:
    """Return output -> how it is scored, for the outputs that are scored by argmax.

    These are the outputs that end in Softmax (also as Exp, ReduceSum, Div), LogSoftmax or ArgMax, but for
    shape-only ops. Attention weights, which a MatMul also reads, are none. With `task` they have that task;
    where there are none, the first float output is meant. Without it, the decisions are classes, unless the
    output could be the steps of a CTC recognizer: the only output, [N, T, C], of a model with float inputs.

    Args:
        model: the FP32 model.
        task: the user's choice; '': none.
        class_axis: the user's choice; None: that of the Softmax, else the last axis.
    """
    scored = {}
    for output in model.graph.outputs:
        row = _ending(output, opset_of(model))
        if row is not None:
            scored[output.name or ""] = row
    if task and not scored:
        floats = [o for o in model.graph.outputs if o.dtype in _FLOATS and (rank(o) or 2) > 1]
        scored = {o.name or "": Scored(task) for o in floats[:1]}
    single = len(model.graph.outputs) == 1 and all(
        value.dtype in _FLOATS for value in model.graph.inputs if value.name not in model.graph.initializers
    )
    return {name: _settled(row, task, class_axis, single, model) for name, row in scored.items()}


def _settled(row: Scored, task: TaskName, class_axis: int | None, single: bool, model: ir.Model) -> Scored:
    """The row with its task and axis."""
    steps = 2 if row.axis is None else 3
    sequence = single and (rank(model.graph.outputs[0]) or steps) == steps
    axis = row.axis if class_axis is None or row.axis is None else class_axis
    return Scored(task or ("" if sequence else CLASSIFY), axis, row.classes)


def _ending(output: ir.Value, opset: int) -> Scored | None:
    """The scoring of an output by the op that it ends in; None where no such op is at its end."""
    value, path = output, list[ir.Node]()
    while (node := value.producer()) is not None and is_op(node, *_PASSING) and node.inputs[0] is not None:
        path.append(node)
        value = node.inputs[0]
    if node is None or any(is_op(use.node, "MatMul", "Einsum") for use in value.uses()):
        return None
    if is_op(node, "ArgMax"):
        scores = node.inputs[0]
        shape = None if scores is None else scores.shape
        length = None if shape is None else shape[attribute_int(node, "axis", 0)]
        return Scored("", None, length if isinstance(length, int) else 0)
    axis = _softmax_axis(node, opset)
    for passed in reversed(path):
        axis = None if axis is None else _moved(passed, axis)
    return None if axis is None else Scored("", axis)


def _softmax_axis(node: ir.Node, opset: int) -> int | None:
    """The axis of a Softmax, counted from the end; None of any other node."""
    if is_op(node, *_SCORING):
        return _from_the_end(attribute_int(node, "axis", -1 if opset >= 13 else 1), node.outputs[0])
    if not is_op(node, "Div") or None in node.inputs:
        return None
    exp, divisor = node.inputs
    while divisor is not None and is_op(divisor.producer(), "Reshape", "Expand", "Unsqueeze", "Identity"):
        divisor = divisor.producer().inputs[0]  # type: ignore[union-attr]  # it has one
    total = None if divisor is None else divisor.producer()
    if exp is None or not is_op(exp.producer(), "Exp") or total is None or not is_op(total, "ReduceSum"):
        return None
    if total.inputs[0] is not exp:
        return None
    tensor = constant(total.inputs[1]) if len(total.inputs) > 1 else None
    axes = [] if tensor is None else [int(a) for a in tensor.reshape(-1)]
    axes = list(total.attributes["axes"].as_ints()) if "axes" in total.attributes else axes
    return _from_the_end(axes[0], exp) if len(axes) == 1 else None


def _from_the_end(axis: int, value: ir.Value) -> int:
    """An axis of a value, counted from the end; the last one where the rank is unknown."""
    axes = rank(value)
    return axis if axis < 0 else -1 if axes is None else axis - axes


def _moved(node: ir.Node, axis: int) -> int:
    """The axis, counted from the end, after a shape-only op."""
    before, after = node.inputs[0], node.outputs[0]
    if is_op(node, "Transpose"):
        axes = rank(before) or -axis
        order = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else [*range(axes)][::-1]
        return order.index(axis + len(order)) - len(order)
    if before is None or before.shape is None or after.shape is None or before.shape == after.shape:
        return axis
    length, shape = before.shape[axis], list(after.shape)
    places = [i - len(shape) for i, n in enumerate(shape) if n == length]
    return axis if axis in places or not places else places[-1]
