"""The inputs and outputs of a node that become float16 with it, by the ONNX schema of its op."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from qtool.graph.view import constant, is_op, is_read, op_key
from qtool.plan.eligible import CONTROL_FLOW, rule_of
from qtool.plan.model import Fp16Node
from qtool.tables.float16 import (
    CONTRIB,
    FLOAT32_INPUTS,
    FLOAT32_OUTPUTS,
    HEAVY,
    NEVER,
    QUANTIZERS,
    TYPE_BLIND,
    TYPED_BY_ATTRIBUTE,
)

_FLOAT16 = "tensor(float16)"


def is_float32(value: ir.Value | None) -> bool:
    """Whether a value is a float32 tensor; sequences and optionals of them are not."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def is_blind(node: ir.Node, index: int) -> bool:
    """Whether an input may have any float type, with the same result."""
    return index == 0 and op_key(node) in TYPE_BLIND


def is_heavy(node: ir.Node) -> bool:
    """Whether a node is worth Casts of its own: it multiplies much, or picks from a large weight."""
    rule = rule_of(node)
    if op_key(node) in HEAVY or rule is None or not rule.storage_min_elements:
        return op_key(node) in HEAVY
    weights = [constant(node.inputs[i]) for i in rule.weight]
    return any(w is not None and w.size >= rule.storage_min_elements for w in weights)


def ports_of(node: ir.Node, opset: int) -> Fp16Node | str | None:
    """Return the float16 inputs and outputs of a node, or the reason why it can't be float16.

    None: the node has no float32 values.

    Args:
        node: any node.
        opset: of the standard domain.
    """
    reads = [i for i, v in enumerate(node.inputs) if is_float32(v) and not is_blind(node, i)]
    makes = [i for i, v in enumerate(node.outputs) if is_float32(v) and v.name]
    unknown = next((v for v in (*node.inputs, *node.outputs) if v is not None and _is_unknown(v)), None)
    key = op_key(node)
    if key in CONTROL_FLOW:
        return "the inputs and outputs of its bodies stay float32" if reads or makes else None
    if not reads and not makes:
        # An unknown op has outputs of unknown types: it may well compute in float32.
        return f"the type of '{unknown.name}' is not known" if unknown is not None else None
    if unknown is not None:
        return f"the type of '{unknown.name}' is not known"
    if any(v is not None and not isinstance(v.type, ir.TensorType) for v in (*node.inputs, *node.outputs)):
        return "it handles sequences or optionals, whose tensors stay float32"
    if reason := _never(node):
        return reason
    if node.op_type in QUANTIZERS:
        return "it quantizes, with float32 scales"
    if key in CONTRIB:
        return _checked(node, reads, makes, set(makes) - set(FLOAT32_OUTPUTS.get(key, ())))
    return _by_schema(node, reads, makes, opset)


def _is_unknown(value: ir.Value) -> bool:
    return bool(value.name) and value.type is None


def _never(node: ir.Node) -> str:
    key = op_key(node)
    if key == "Transpose" and _crashes(node):
        return "onnxruntime crashes on it in float16, fused with the product after it"
    kinds = (f"{key}/{a.name}={_text(a)}" for a in node.attributes.values())
    return next((NEVER[k] for k in (key, *kinds) if k in NEVER), "")


def _crashes(node: ir.Node) -> bool:
    """Whether onnxruntime (1.32) dies of a float16 Transpose: it moves the batch inwards, before a weight.

    Its NchwcTransformer fails on the FusedMatMul that its MatmulTransposeFusion has made, also behind a Cast.
    """
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else ()
    if len(perm) < 3 or list(perm[:-2]) != list(range(1, len(perm) - 1)):
        return False
    readers = [use.node for use in node.outputs[0].uses()]
    readers += [use.node for cast in readers if is_op(cast, "Cast") for use in cast.outputs[0].uses()]
    weights = (constant(v) for n in readers if is_op(n, "MatMul") for v in n.inputs)
    return any(w is not None and w.ndim == 2 for w in weights)


def _text(attribute: ir.Attr) -> str:
    value = attribute.value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _by_schema(node: ir.Node, reads: list[int], makes: list[int], opset: int) -> Fp16Node | str:
    if node.domain not in ("", "ai.onnx"):
        return f"no schema tells whether {op_key(node)} computes in float16"
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return f"there is no {node.op_type} in opset {opset}"
    inputs = [_formal(schema.inputs, i) for i in range(len(node.inputs))]
    outputs = [_formal(schema.outputs, i) for i in range(len(node.outputs))]
    input_types = {formal.type_str for formal, v in zip(inputs, node.inputs, strict=True) if v is not None}
    typed = node.op_type in TYPED_BY_ATTRIBUTE
    able = {
        j for j in makes if _FLOAT16 in outputs[j].types and (typed or outputs[j].type_str in input_types)
    }
    able -= set(FLOAT32_OUTPUTS.get(op_key(node), ()))
    fixed = FLOAT32_INPUTS.get(node.op_type, ())
    return _checked(node, [i for i in reads if i not in fixed and _FLOAT16 in inputs[i].types], makes, able)


def _checked(node: ir.Node, reads: list[int], makes: list[int], able: set[int]) -> Fp16Node | str:
    """Return the ports if every float32 output with a consumer can be float16, else the reason."""
    for index in makes:
        if index not in able and is_read(node.outputs[index]):
            return f"its output '{node.outputs[index].name}' can't be float16"
    if not able and (makes or not reads):
        return f"{op_key(node)} takes no float16"
    return Fp16Node(tuple(reads), tuple(sorted(able)))


def _formal(
    formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int
) -> onnx.defs.OpSchema.FormalParameter:
    """Return the declared parameter at an index; the last may be variadic."""
    return formals[min(index, len(formals) - 1)]
