"""MatMul and Gemm in integers: with a result in integers, or in floats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, new_node, owner
from qtool.graph.view import attribute_int, constant, is_op
from qtool.plan.grids import product_scale
from qtool.rewrite.qoperands import (
    Fusion,
    Operand,
    Result,
    bias,
    insert_before,
    operand,
    remove,
    result,
    take_place,
    write_integers,
)
from qtool.tables.qoperators import (
    MATMUL_INTEGER,
    MATMUL_INTEGER_TO_FLOAT,
    MICROSOFT,
    Q_GEMM,
    QLINEAR_MATMUL,
)


@dataclass(frozen=True)
class _Found:
    """a [.., M, K] times b [K, N], plus a bias.

    Args:
        node: whose output the sum is: the MatMul or Gemm, or the Add behind it.
        product: the MatMul or Gemm itself.
        transposed: b is stored as [N, K].
        bias: int32 [N] at the product of the scales.
    """

    node: ir.Node
    product: ir.Node
    a: Operand
    b: Operand
    transposed: bool
    bias: ir.Value | None

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]


def _find(node: ir.Node, add: ir.Node | None) -> _Found:
    """The operands of a product, and the bias: a Gemm's own, or that of the Add behind a MatMul."""
    a, b = operand(node, 0), operand(node, 1)
    if add is not None:
        index = 1 if add.inputs[0] is node.outputs[0] else 0
        return _Found(add, node, a, b, False, bias(add, index))
    transposed = is_op(node, "Gemm") and bool(attribute_int(node, "transB", 0))
    return _Found(node, node, a, b, transposed, bias(node, 2))


def write_q_gemm(fusion: Fusion, node: ir.Node, add: ir.Node | None) -> None:
    """Replace a product by QGemm with a result in integers."""
    found = _find(node, add)
    _q_gemm(fusion, found, result(found.output))


def write_q_gemm_to_float(fusion: Fusion, node: ir.Node, add: ir.Node | None) -> None:
    """Replace a product by QGemm with a result in floats."""
    _q_gemm(fusion, _find(node, add), None)


def write_qlinear_matmul(fusion: Fusion, node: ir.Node, add: ir.Node | None) -> None:
    """Replace a product by QLinearMatMul."""
    found = _find(node, add)
    to = result(found.output)
    b = [_upright(fusion, found), *found.b.scaled.parts()]
    write_integers(fusion, found.node, to, QLINEAR_MATMUL.op_type, [*found.a.parts(), *b, *to.scaled.parts()])


def _q_gemm(fusion: Fusion, found: _Found, to: Result | None) -> None:
    inputs: list[ir.Value | None] = [*found.a.parts(), *found.b.parts(), found.bias]
    attributes = {"transB": ir.AttrInt64("transB", 1)} if found.transposed else {}
    if to is not None:
        inputs += to.scaled.parts()
        write_integers(
            fusion, found.node, to, Q_GEMM.op_type, inputs, domain=MICROSOFT, attributes=attributes
        )
        remove([found.product])
        return
    gemm = new_node(
        Q_GEMM.op_type,
        inputs if found.bias is not None else inputs[:-1],
        name=fusion.namer(f"{found.node.name}_quantized"),
        outputs=[fusion.namer(f"{found.output.name}_product")],
        domain=MICROSOFT,
        attributes=attributes,
    )
    _write_floats(fusion, found, [gemm])


def write_matmul_integer_to_float(fusion: Fusion, node: ir.Node, add: ir.Node | None) -> None:
    """Replace a product by MatMulIntegerToFloat.

    Without a zero point of b, which is 0 then, the kernel need not sum the rows of a.
    """
    found = _find(node, add)
    a, b = found.a, found.b
    inputs = [a.integers, _upright(fusion, found), a.scaled.scale, b.scaled.scale, a.scaled.zero_point]
    if not b.scaled.zero_is_0():
        inputs.append(b.scaled.zero_point)
    product = new_node(
        MATMUL_INTEGER_TO_FLOAT.op_type,
        inputs,
        name=fusion.namer(f"{found.node.name}_quantized"),
        outputs=[fusion.namer(f"{found.output.name}_product")],
        domain=MICROSOFT,
    )
    _write_floats(fusion, found, [product])


def write_matmul_integer(fusion: Fusion, node: ir.Node, add: ir.Node | None) -> None:
    """Replace a product by MatMulInteger (-> Add of the int32 bias) -> Cast -> Mul: ONNX's own operators."""
    found = _find(node, add)
    namer, a, b = fusion.namer, found.a, found.b
    name, out = found.product.name, found.output.name
    inputs = [a.integers, _upright(fusion, found), a.scaled.zero_point]
    if not b.scaled.zero_is_0():
        inputs.append(b.scaled.zero_point)
    product = new_node(
        MATMUL_INTEGER.op_type, inputs, name=namer(f"{name}_quantized"), outputs=[namer(f"{out}_product")]
    )
    nodes = [product]
    if found.bias is not None:
        add_name = f"{name}_bias" if found.node is found.product else f"{found.node.name}_quantized"
        sums = [product.outputs[0], found.bias]
        nodes.append(new_node("Add", sums, name=namer(add_name), outputs=[namer(f"{out}_sum")]))
    to_float = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
    cast = new_node(
        "Cast",
        [nodes[-1].outputs[0]],
        name=namer(f"{name}_Cast"),
        outputs=[namer(f"{out}_cast")],
        attributes=to_float,
    )
    scale = product_scale(a.scaled.grid, b.scaled.grid)
    step = add_initializer(owner(a.scaled.scale), namer(f"{out}_product_scale"), scale)
    mul = new_node(
        "Mul", [cast.outputs[0], step], name=namer(f"{name}_Mul"), outputs=[namer(f"{out}_scaled")]
    )
    for each in nodes:
        each.outputs[0].type, each.outputs[0].shape = ir.TensorType(ir.DataType.INT32), found.output.shape
    _write_floats(fusion, found, [*nodes, cast, mul])


def _write_floats(fusion: Fusion, found: _Found, nodes: list[ir.Node]) -> None:
    """Put nodes in the place of a product whose result stays in floats."""
    made = nodes[-1].outputs[0]
    made.type, made.shape = found.output.type, found.output.shape
    insert_before(found.node, nodes)
    take_place(found.output, made, fusion.namer)
    remove([found.node, found.product])


def _upright(fusion: Fusion, found: _Found) -> ir.Value:
    """b as [K, N]; a transposed weight is transposed once, however many nodes read it."""
    value = found.b.integers
    if not found.transposed:
        return value
    if value not in fusion.transposed:
        name = fusion.namer(f"{value.name}_transposed")
        array = np.asarray(constant(value)).T
        fusion.transposed[value] = add_initializer(owner(value), name, array)
    return fusion.transposed[value]
