"""Write com.microsoft ops that unpack blocks of 2, 4 or 8 bit weights themselves.

MatMulNBits and GatherBlockQuantized can read the same table.

A [.., K] x B [N, K/block, block * bits / 8] uint8, scales [N, K/block]; without a zero point it is the
middle of the unsigned range (onnxruntime docs/ContribOperators.md). The experts of QMoE are a stack of such B
without the axis of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import insert_after_value, new_node, owner, replace_node
from qtool.graph.view import attribute_int
from qtool.numerics.qparams import QParams, unfold, unfolded_shape
from qtool.plan.eligible import nbits_block
from qtool.plan.model import Site
from qtool.plan.resolve import integers_of, weight_params
from qtool.rewrite.dynamic_operands import one_node
from qtool.rewrite.weights import Make, weight_constant, weight_shape
from qtool.rewrite.writer import Writer, float_array, home, vector
from qtool.tables.qtypes import PerBlock

# Level 4 computes in int8. The default, 0, runs at a twentieth of the speed of float.
_ACCURACY_LEVEL = 4
_BIAS_INPUT = 5
# Inputs: of each matrix that in MoE, that of QMoE's blocks, with scales and bias behind it, and zero points.
_EXPERTS, _ROUTER_WEIGHTS = ((2, 2, 11), (4, 5, 12)), 14


def write_nbits(writer: Writer, node: ir.Node) -> None:
    """Replace a MatMul or Gemm with a constant weight, and its bias: C of a Gemm, or an Add behind it."""
    writer.use_contrib()
    site = writer.sites_of[node.name or "", 1]
    granularity, bits = site.spec.granularity, site.spec.qtype.bits
    value, graph = writer.view.values[site.value], home(node)
    upright = not attribute_int(node, "transB", 0)
    shape = weight_shape(writer, site)
    columns, total = shape[::-1] if upright else shape
    inputs: list[ir.Value | None] = [node.inputs[0]]
    if isinstance(granularity, PerBlock):
        size = granularity.size
        inputs += _blocks(writer, site, graph, upright=upright)
    else:
        size = nbits_block(total, site.spec.qtype, 0)
        array = float_array(value)
        q = integers_of(site, array)
        inputs += _blocks_of_rows(writer, site, q.T if upright else q, weight_params(site, array), size)
    added = writer.added.get(node.name or "")
    last = writer.view.node_by_name[added.uses[0][0]] if added is not None and added.uses else node
    bias = writer.view.values[added.value] if added is not None else (*node.inputs, None, None)[2]
    if bias is not None:
        inputs += [None] * (_BIAS_INPUT - len(inputs)) + [vector(writer, graph, bias)]
    numbers = {
        "K": total,
        "N": columns,
        "bits": bits,
        "block_size": size,
        "accuracy_level": _ACCURACY_LEVEL,
    }
    product = new_node(
        "MatMulNBits",
        inputs,
        name=writer.namer(f"{node.name}_{bits}bits"),
        outputs=[writer.namer(f"{last.outputs[0].name}_{bits}bits")],
        domain="com.microsoft",
        attributes={k: ir.AttrInt64(k, v) for k, v in numbers.items()},
    )
    replace_node(last, [product], last.outputs[0], product.outputs[0], writer.namer)
    if last is not node and node.graph is not None:
        node.graph.remove(node, safe=True)


def write_experts(writer: Writer, node: ir.Node) -> None:
    """Replace a mixture of experts whose two matrices are constants [experts, N, K] by QMoE.

    QMoE divides the weights of the chosen experts by their sum, whatever its attribute says (1.32). Where MoE
    does not, they come in an input of their own, which it takes as they are.
    """
    writer.use_contrib()
    graph = home(node)
    old = (*node.inputs, None, None)
    inputs: list[ir.Value | None] = [*old[:2], *[None] * (_ROUTER_WEIGHTS - 1)]
    for index, at, zero_point_at in _EXPERTS:
        site = writer.sites_of[node.name or "", index]
        packed, scale, *zero_points = _blocks(writer, site, graph, upright=False)
        inputs[at : at + 3] = packed, scale, old[index + 1]
        inputs[zero_point_at] = zero_points[0] if zero_points else None
    nodes = []
    if not attribute_int(node, "normalize_routing_weights", 0):
        nodes.append(one_node(writer, "Softmax", [old[1]], f"{node.name}_router"))
        inputs[_ROUTER_WEIGHTS] = nodes[0].outputs[0]
    numbers = {
        "expert_weight_bits": site.spec.qtype.bits,
        "block_size": getattr(site.spec.granularity, "size", 0),
        "accuracy_level": _ACCURACY_LEVEL,
    }
    experts = new_node(
        "QMoE",
        inputs,
        name=writer.namer(f"{node.name}_blocks"),
        outputs=[writer.namer(f"{node.outputs[0].name}_blocks")],
        domain="com.microsoft",
        attributes=dict(node.attributes) | {k: ir.AttrInt64(k, v) for k, v in numbers.items()},
    )
    replace_node(node, [*nodes, experts], node.outputs[0], experts.outputs[0], writer.namer)


def write_block_lookup(writer: Writer, site: Site) -> None:
    """Replace the Gathers of a table [V, D]: GatherBlockQuantized unpacks the rows that it picks."""
    writer.use_contrib()
    value = writer.view.values[site.value]
    graph = owner(value)
    packed, *rest = _blocks(writer, site, graph, upright=False)
    numbers = {
        "bits": site.spec.qtype.bits,
        "block_size": getattr(site.spec.granularity, "size", 0),
        "gather_axis": 0,
        "quantize_axis": 1,
    }
    rows = writer.once(("rows of bytes",), graph, "rows_of_bytes", np.asarray([0, -1]))
    flat = one_node(writer, "Reshape", [packed, rows], f"{site.value}_rows")
    insert_after_value(value, [flat], graph)
    for name, _ in site.uses or ():
        gather = writer.view.node_by_name[name]
        picked = new_node(
            "GatherBlockQuantized",
            [flat.outputs[0], gather.inputs[1], *rest],
            name=writer.namer(f"{name}_blocks"),
            outputs=[writer.namer(f"{gather.outputs[0].name}_blocks")],
            domain="com.microsoft",
            attributes={k: ir.AttrInt64(k, v) for k, v in numbers.items()},
        )
        replace_node(gather, [picked], gather.outputs[0], picked.outputs[0], writer.namer)


def _blocks(writer: Writer, site: Site, graph: ir.Graph, *, upright: bool) -> list[ir.Value | None]:
    """Return the packed blocks of a weight, their scales, and zero points if any.

    The weight is [N, K], [K, N] if upright, or [experts, N, K]: the blocks of that have no axis of their own.
    """
    bits, size = site.spec.qtype.bits, getattr(site.spec.granularity, "size", 0)
    shape = weight_shape(writer, site)
    granularity = PerBlock(len(shape) - 1, size)
    *stack, columns, count, size = unfolded_shape(shape[::-1] if upright else shape, granularity)
    in_bytes = (*stack, columns, *((count * size * bits // 8,) if stack else (count, size * bits // 8)))

    def rows(array: NDArray[Any]) -> NDArray[Any]:
        return array.T if upright else array

    def blocks(q: NDArray[Any], _: QParams) -> NDArray[Any]:
        # Without a zero point it is the middle of the range.
        middle = np.uint8(2 ** (bits - 1) if site.spec.symmetric else 0)
        unsigned = q.view(np.uint8) + middle  # modulo 256
        return pack(unfold(rows(unsigned), granularity), bits).reshape(in_bytes)

    def zero_points(_: NDArray[Any], params: QParams) -> NDArray[Any]:
        return pack(rows(params.zero_point)[..., None, :], bits).reshape(*stack, columns, -1)

    made: list[tuple[str, Make, ir.DataType, tuple[int, ...]]] = [
        ("packed", blocks, ir.DataType.UINT8, in_bytes),
        ("scale", lambda _, p: rows(p.scale), ir.DataType.FLOAT, (*stack, columns, count)),
    ]
    if not site.spec.symmetric:
        made.append(("zero_points", zero_points, ir.DataType.UINT8, (*stack, columns, -(-count * bits // 8))))
    return [
        weight_constant(
            writer, site, f"{site.value}_{what}", make, dtype, dims, graph=graph, key=("nbits", upright)
        )
        for what, make, dtype, dims in made
    ]


def _blocks_of_rows(
    writer: Writer, site: Site, q: NDArray[np.integer], params: QParams, size: int
) -> Sequence[ir.Value]:
    """Return a table [N, K] of int8 with a scale a row as blocks and their scales.

    Nodes make them, so that a Gather can read the same table; onnxruntime runs these at load.
    """
    key = ("nbits rows", site.value, site.spec)
    if key not in writer.made:
        name, graph, (rows, total) = site.value, writer.model.graph, q.shape
        count = -(-total // size)

        def constant(what: str, array: NDArray[np.generic]) -> ir.Value:
            return writer.once((*key, what), graph, f"{name}_{what}", array)

        steps: list[tuple[str, list[ir.Value], ir.DataType | None]] = [
            ("Cast", [], ir.DataType.INT32),
            ("Add", [constant("middle", np.asarray(128, np.int32))], None),  # the default zero point
            ("Cast", [], ir.DataType.UINT8),
            ("Pad", [constant("padding", np.asarray([0, 0, 0, count * size - total]))], None),
            ("Reshape", [constant("blocks", np.asarray([rows, count, size]))], None),
        ]
        last, nodes = constant("quantized", q), list[ir.Node]()
        for op_type, others, to in steps:
            attributes = {} if to is None else {"to": ir.AttrInt64("to", to)}
            nodes.append(
                one_node(writer, op_type, [last, *others], f"{name}_{op_type}", attributes=attributes)
            )
            last = nodes[-1].outputs[0]
        scale = constant("scale", params.scale.reshape(rows, 1))
        nodes.append(
            one_node(
                writer, "Expand", [scale, constant("scales", np.asarray([rows, count]))], f"{name}_Expand"
            )
        )
        insert_after_value(writer.view.values[site.value], nodes, graph)
        writer.made[key] = [last, nodes[-1].outputs[0]]
    return writer.made[key]


def pack(q: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Pack unsigned integers [.., size] into bytes, each byte as full as it gets, the first lowest."""
    each = 8 // bits
    unsigned: NDArray[np.uint8] = q.astype(np.uint8)  # in the order of q in memory, as all that follows
    if rest := -q.shape[-1] % each:
        unsigned = np.pad(unsigned, [(0, 0)] * (q.ndim - 1) + [(0, rest)])
    packed = unsigned[..., ::each].copy(order="K")
    for place in range(1, each):
        packed |= unsigned[..., place::each] << np.uint8(bits * place)
    return packed
