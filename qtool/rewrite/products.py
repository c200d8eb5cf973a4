"""MatMul and Gemm in integers: with a result in integers, or in floats where nothing quantizes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import add_initializer, new_node, owner
from qtool.graph.view import attribute_float, attribute_int, constant, is_op, rank, sole_consumer
from qtool.rewrite.qoperands import (
    Fusion,
    Operand,
    Result,
    activation,
    bias,
    insert_before,
    operand,
    product_scale,
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
    Product,
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

    def suits(self, product: Product) -> bool:
        """Whether an operator takes these types."""
        return (self.a.scaled.type, self.b.scaled.type) in product.pairs


def fuse_product(fusion: Fusion, node: ir.Node) -> bool:
    """Give a MatMul (with the Add of an int32 bias) or a Gemm its integer form."""
    found = _matmul(node) if node.op_type == "MatMul" else _gemm(node) if node.op_type == "Gemm" else None
    if found is None:
        return False
    to = result(found.output)
    if to is not None and to.scaled.type != found.a.scaled.type:
        to = None  # no operator changes the type on the way
    wants_gemm = node.op_type == "Gemm" or found.bias is not None
    if fusion.contrib and wants_gemm and rank(found.product.inputs[0]) == 2 and found.suits(Q_GEMM):
        _q_gemm(fusion, found, to)
    elif found.transposed and constant(found.b.integers) is None:
        return False
    elif to is not None and found.bias is None and found.suits(QLINEAR_MATMUL):
        b = [_upright(fusion, found), *found.b.scaled.parts()]
        inputs = [*found.a.parts(), *b, *to.scaled.parts()]
        write_integers(fusion, found.node, to, QLINEAR_MATMUL.op_type, inputs)
    elif fusion.contrib and found.bias is None and found.suits(MATMUL_INTEGER_TO_FLOAT):
        _to_float(fusion, found)
    elif found.suits(MATMUL_INTEGER):
        _sum_and_scale(fusion, found)
    else:
        return False
    return True


def _matmul(node: ir.Node) -> _Found | None:
    a, b = activation(node.inputs[0]), operand(node.inputs[1])
    if a is None or b is None or not _channels_last(b, transposed=False):
        return None
    add = sole_consumer(node.outputs[0])
    if add is not None and is_op(add, "Add") and constant(b.integers) is not None:
        other = add.inputs[1 if add.inputs[0] is node.outputs[0] else 0]
        addend = bias(other, a.scaled, b.scaled)
        if addend is not None:
            return _Found(add, node, a, b, False, addend)
    return _Found(node, node, a, b, False, None)


def _gemm(node: ir.Node) -> _Found | None:
    a, b = activation(node.inputs[0]), operand(node.inputs[1])
    transposed = bool(attribute_int(node, "transB", 0))
    if a is None or b is None or not _channels_last(b, transposed) or attribute_int(node, "transA", 0):
        return None
    if attribute_float(node, "alpha", 1.0) != 1.0:
        return None
    c = node.inputs[2] if len(node.inputs) > 2 else None
    if c is None:
        return _Found(node, node, a, b, transposed, None)
    addend = bias(c, a.scaled, b.scaled)
    if addend is None or attribute_float(node, "beta", 1.0) != 1.0:
        return None
    return _Found(node, node, a, b, transposed, addend)


def _channels_last(b: Operand, transposed: bool) -> bool:
    """Whether scales run along the columns of the product, if along anything; then b has two axes."""
    if b.scaled.axis is None:
        return True
    return rank(b.integers) == 2 and b.scaled.axis == (0 if transposed else 1)


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


def _to_float(fusion: Fusion, found: _Found) -> None:
    """MatMulIntegerToFloat: no zero point of b means 0, and saves the kernel the sums of a's rows."""
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


def _sum_and_scale(fusion: Fusion, found: _Found) -> None:
    """MatMulInteger (-> Add of the int32 bias) -> Cast -> Mul: all in ONNX's own operators."""
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
    scale = product_scale(a.scaled, b.scaled)
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
