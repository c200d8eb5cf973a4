"""Lower MatMul and Gemm to integer products, whose result is integers or floats."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qtool.graph.edit import add_initializer, new_node, owner
from qtool.graph.view import attribute_float, attribute_int, constant, is_op, sole_consumer
from qtool.rewrite.qoperator.lowering import Lowering, insert_before, remove, take_place
from qtool.rewrite.qoperator.patterns import (
    Operand,
    activation,
    axes,
    int32_bias,
    operand,
    product_scale,
    result,
)
from qtool.tables.qoperators import (
    MATMUL_INTEGER,
    MATMUL_INTEGER_TO_FLOAT,
    MICROSOFT,
    Q_GEMM,
    QLINEAR_MATMUL,
)


@dataclass(frozen=True)
class _Product:
    """a [.., M, K] times b [K, N], plus a bias.

    Args:
        node: the MatMul or Gemm.
        end: the node whose output the sum is: `node`, or the Add behind it.
        transposed: b is stored as [N, K].
        bias: int32 [N] at the product of the scales.
    """

    node: ir.Node
    end: ir.Node
    a: Operand
    b: Operand
    transposed: bool
    bias: ir.Value | None

    @property
    def output(self) -> ir.Value:
        return self.end.outputs[0]


def lower_product(lowering: Lowering, node: ir.Node) -> bool:
    """Replace a MatMul or Gemm by the first operator that takes its types, bias and result.

    In this order: QGemm, QLinearMatMul, MatMulIntegerToFloat, MatMulInteger.
    """
    product = _gemm(node) if node.op_type == "Gemm" else _matmul(node)
    if product is None:
        return False
    pair = product.a.grid.type, product.b.grid.type
    to = result(product.output)
    if to is not None and to.grid.type != product.a.grid.type:
        to = None  # no operator changes the type on the way
    gemm = node.op_type == "Gemm" or product.bias is not None
    if lowering.contrib and gemm and axes(node, 0) == 2 and pair in Q_GEMM.pairs:
        inputs: list[ir.Value | None] = [*product.a.parts, *product.b.parts, product.bias]
        attributes = {"transB": ir.AttrInt64("transB", 1)} if product.transposed else {}
        if to is None:
            _to_float(lowering, product, Q_GEMM.op_type, inputs, attributes)
            return True
        inputs += to.parts
        lowering.replace(product.end, to, Q_GEMM.op_type, inputs, domain=MICROSOFT, attributes=attributes)
        remove([node])
        return True
    if product.transposed and not _is_constant(product.b):
        return False
    if to is not None and product.bias is None and pair in QLINEAR_MATMUL.pairs:
        b = [_upright(lowering, product), *product.b.parts[1:]]
        lowering.replace(node, to, QLINEAR_MATMUL.op_type, [*product.a.parts, *b, *to.parts])
        return True
    if lowering.contrib and product.bias is None and pair in MATMUL_INTEGER_TO_FLOAT.pairs:
        a, b_grid = product.a, product.b.grid
        inputs = [a.integers, _upright(lowering, product), a.grid.scale, b_grid.scale, a.grid.zero_point]
        # Without a zero point of b, which is 0 then, the kernel need not sum the rows of a.
        inputs.append(None if b_grid.symmetric else b_grid.zero_point)
        _to_float(lowering, product, MATMUL_INTEGER_TO_FLOAT.op_type, inputs, {})
        return True
    if pair not in MATMUL_INTEGER.pairs:
        return False
    _matmul_integer(lowering, product)
    return True


def _matmul(node: ir.Node) -> _Product | None:
    a, b = activation(node, 0), operand(node, 1)
    if a is None or b is None or not _channels_last(node, b, transposed=False):
        return None
    add = sole_consumer(node.outputs[0])
    if add is not None and is_op(add, "Add") and _is_constant(b):
        index = 1 if add.inputs[0] is node.outputs[0] else 0
        bias = int32_bias(add, index, a.grid, b.grid)
        if bias is not None:
            return _Product(node, add, a, b, False, bias)
    return _Product(node, node, a, b, False, None)


def _gemm(node: ir.Node) -> _Product | None:
    a, b = activation(node, 0), operand(node, 1)
    transposed = bool(attribute_int(node, "transB", 0))
    if a is None or b is None or not _channels_last(node, b, transposed):
        return None
    if attribute_int(node, "transA", 0) or attribute_float(node, "alpha", 1.0) != 1.0:
        return None
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = int32_bias(node, 2, a.grid, b.grid)
        if bias is None or attribute_float(node, "beta", 1.0) != 1.0:
            return None
    return _Product(node, node, a, b, transposed, bias)


def _channels_last(node: ir.Node, b: Operand, transposed: bool) -> bool:
    """Return whether scales run along the columns of the product, if along anything; then b has two axes."""
    return b.grid.axis is None or (axes(node, 1) == 2 and b.grid.axis == (0 if transposed else 1))


def _is_constant(b: Operand) -> bool:
    return constant(b.integers) is not None


def _upright(lowering: Lowering, product: _Product) -> ir.Value:
    """Return b as [K, N]."""
    return lowering.transposed(product.b.integers) if product.transposed else product.b.integers


def _to_float(
    lowering: Lowering,
    product: _Product,
    op_type: str,
    inputs: list[ir.Value | None],
    attributes: dict[str, ir.Attr],
) -> None:
    """Replace a product by an operator of com.microsoft that has a float result."""
    while inputs[-1] is None:
        inputs.pop()
    name = lowering.namer(f"{product.end.name}_quantized")
    out = lowering.namer(f"{product.output.name}_product")
    made = new_node(op_type, inputs, name=name, outputs=[out], domain=MICROSOFT, attributes=attributes)
    _place_floats(lowering, product, [made])


def _matmul_integer(lowering: Lowering, product: _Product) -> None:
    """Replace a product by MatMulInteger (-> Add of the int32 bias) -> Cast -> Mul: ONNX's own operators."""
    namer, a, b = lowering.namer, product.a, product.b
    name, out = product.node.name, product.output.name
    inputs = [a.integers, _upright(lowering, product), a.grid.zero_point]
    if not b.grid.symmetric:
        inputs.append(b.grid.zero_point)
    outputs = [namer(f"{out}_product")]
    nodes = [new_node(MATMUL_INTEGER.op_type, inputs, name=namer(f"{name}_quantized"), outputs=outputs)]
    if product.bias is not None:
        add = f"{name}_bias" if product.end is product.node else f"{product.end.name}_quantized"
        addends = [nodes[0].outputs[0], product.bias]
        nodes.append(new_node("Add", addends, name=namer(add), outputs=[namer(f"{out}_sum")]))
    for node in nodes:
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.INT32), product.output.shape
    to_float = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
    sums, outputs = nodes[-1].outputs[0], [namer(f"{out}_cast")]
    cast = new_node("Cast", [sums], name=namer(f"{name}_Cast"), outputs=outputs, attributes=to_float)
    scale = product_scale(a.grid, b.grid)
    step = add_initializer(owner(a.grid.scale), namer(f"{out}_product_scale"), scale)
    outputs = [namer(f"{out}_scaled")]
    mul = new_node("Mul", [cast.outputs[0], step], name=namer(f"{name}_Mul"), outputs=outputs)
    _place_floats(lowering, product, [*nodes, cast, mul])


def _place_floats(lowering: Lowering, product: _Product, nodes: list[ir.Node]) -> None:
    """Put nodes in the place of a product whose result stays in floats."""
    made = nodes[-1].outputs[0]
    made.type, made.shape = product.output.type, product.output.shape
    insert_before(product.end, nodes)
    take_place(product.output, made, lowering.namer)
    remove([product.end, product.node])
