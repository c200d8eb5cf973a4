"""Write float16: types, weights, a Cast on every boundary, and the fusion barriers of norms.

The plan decides which nodes read and make float16, which weights are stored so or copied, and which norms
need a barrier. The rest follows: every value has the type of its producer, and one Cast serves all consumers
that read the other type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import (
    Namer,
    add_constant,
    add_initializer,
    computed,
    insert_after_value,
    new_node,
    owner,
    take_output_name,
)
from qtool.graph.prepare.opset import QDQ_OPSET
from qtool.graph.view import is_op
from qtool.plan.fp16.ports import is_blind, is_float32
from qtool.plan.model import Fp16Assignment, GraphEdit
from qtool.rewrite.fp16.casts import tidy_casts
from qtool.tables.float16 import LIKE, TYPED_BY_ATTRIBUTE

_FLOAT, _FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
Use = tuple[ir.Node, int]


@dataclass
class _Writer:
    """The state of one rewrite: the float16 inputs and outputs of nodes, and free names."""

    model: ir.Model
    fp16: Fp16Assignment
    namer: Namer
    reads: set[tuple[int, int]]
    made: set[int]

    def is_own(self, value: ir.Value) -> bool:
        """Return whether a value is an input or output of the model that becomes float16."""
        return value.name in self.fp16.ports


def write_fp16(model: ir.Model, fp16: Fp16Assignment, norms: Sequence[GraphEdit] = ()) -> None:
    """Turn the nodes of `fp16` to float16, in place. Every other node reads and makes what it did.

    Args:
        model: a clone of the prepared model, which another writer may have worked on already.
        norms: the fusion barriers of norms that are of two types.

    Raises:
        KeyError: the plan names a node or value that the model does not have.
    """
    nodes = {n.name or "": n for n in model.graph.all_nodes()}
    sites = [(nodes[name], ports) for name, ports in fp16.nodes.items()]
    reads = {(id(node), i) for node, ports in sites for i in ports.inputs}
    made = {id(node.outputs[i]) for node, ports in sites for i in ports.outputs}
    writer = _Writer(model, fp16, Namer(model), reads, made)
    values = {v.name or "": v for v in _values(model)}
    _type_attributes(writer, list(nodes.values()))
    for value in values.values():
        if value.is_initializer() and not value.is_graph_input():
            _write_constant(writer, value)
        else:
            _write_value(writer, value)
    if not {"", "ai.onnx"} & model.opset_imports.keys():  # a model of other domains alone, and now of Casts
        model.opset_imports[""] = QDQ_OPSET
    tidy_casts(model, writer.namer)
    for edit in norms:
        _write_norm_barrier(values, nodes, edit, writer.namer)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from (v for v in graph.initializers.values() if not v.is_graph_input())
    for node in model.graph.all_nodes():
        yield from node.outputs


def _readers(writer: _Writer, value: ir.Value) -> tuple[list[Use], list[Use]]:
    """Return the consumers of a value in float16 and those in float32, without those that take both."""
    float16_uses: list[Use] = []
    float32_uses: list[Use] = []
    for node, index in value.uses():
        if (id(node), index) in writer.reads:
            float16_uses.append((node, index))
        elif not is_blind(node, index):
            float32_uses.append((node, index))
    return float16_uses, float32_uses


def _write_value(writer: _Writer, value: ir.Value) -> None:
    """Set the type of a value that is computed or fed, and cast it for consumers of the other type."""
    float16_uses, float32_uses = _readers(writer, value)
    if not is_float32(value) and not (float16_uses and value.dtype is None):
        return
    own = writer.is_own(value)
    if id(value) in writer.made or (own and value.is_graph_input()):
        to, others, output = _FLOAT, float32_uses, value.is_graph_output() and not own
    else:
        to, others, output = _FLOAT16, float16_uses, value.is_graph_output() and own
    if others or output:
        made = _cast(writer, value, to, others)
        if output:
            take_output_name(value, made, writer.namer)
            made.type = ir.TensorType(to)
    if to is _FLOAT:
        value.type = ir.TensorType(_FLOAT16)


def _write_constant(writer: _Writer, value: ir.Value) -> None:
    """Store a weight as float16: in place, or as a copy where the plan has one."""
    if not is_float32(value) or value.const_value is None:
        return
    float16_uses, float32_uses = _readers(writer, value)
    if not (float16_uses or value.name in writer.fp16.stored or writer.is_own(value)):
        return
    tensor = computed(
        value, lambda array: array.astype(np.float16), _FLOAT16, value.const_value.shape.numpy()
    )
    if value.name in writer.fp16.copied:
        _redirect(float16_uses, add_constant(owner(value), writer.namer(f"{value.name}_float16"), tensor))
        return
    tensor.name, value.const_value = value.name, tensor
    value.type = ir.TensorType(_FLOAT16)
    if float32_uses:
        _cast(writer, value, _FLOAT, float32_uses)


def _cast(writer: _Writer, value: ir.Value, to: ir.DataType, readers: list[Use]) -> ir.Value:
    """Add a Cast right behind the producer of a value, for consumers that read another type."""
    word = "float16" if to is _FLOAT16 else "float32"
    cast = new_node(
        "Cast",
        [value],
        name=writer.namer(f"{value.name}_to_{word}"),
        outputs=[writer.namer(f"{value.name}_{word}")],
        attributes={"to": ir.AttrInt64("to", to)},
    )
    made = cast.outputs[0]
    made.type, made.shape = ir.TensorType(to), value.shape
    insert_after_value(value, [cast], owner(value))
    _redirect(readers, made)
    return made


def _redirect(readers: list[Use], value: ir.Value) -> None:
    for node, index in readers:
        node.replace_input_with(index, value)


def _type_attributes(writer: _Writer, nodes: list[ir.Node]) -> None:
    """Set float16 in attributes that name a type, and float32 where the type followed an input."""
    for node in nodes:
        if not is_op(node, *TYPED_BY_ATTRIBUTE) or not is_float32(node.outputs[0]):
            continue
        word, is_float16 = TYPED_BY_ATTRIBUTE[node.op_type], id(node.outputs[0]) in writer.made
        if word == "value" and is_float16:
            _type_tensor(node)
        elif is_float16 or (node.op_type in LIKE and word not in node.attributes):
            node.attributes.add(ir.AttrInt64(word, _FLOAT16 if is_float16 else _FLOAT))


def _type_tensor(node: ir.Node) -> None:
    """Make the `value` of a Constant or ConstantOfShape float16; its default is one float32 zero."""
    array = np.zeros(1, np.float16)
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR:
            array = attribute.as_tensor().numpy().astype(np.float16)
        else:
            array = np.asarray(attribute.value, np.float16)
        del node.attributes[name]
    node.attributes.add(ir.AttrTensor("value", ir.tensor(array)))


def _write_norm_barrier(
    values: Mapping[str, ir.Value], nodes: Mapping[str, ir.Node], edit: GraphEdit, namer: Namer
) -> None:
    """Let the consumers of a value read Max(value, -inf), behind the Cast that they share, if any.

    Args:
        values, nodes: of the model, by the names that they have in the plan.
    """
    value = values[edit.value]
    for name, index in (edit.uses or ())[:1]:
        read = nodes[name].inputs[index]
        value = read if read is not None else value
    floor = np.asarray(-np.inf, np.float16 if value.dtype == ir.DataType.FLOAT16 else np.float32)
    low = add_initializer(owner(value), namer(f"{value.name}_barrier_floor"), floor)
    name, output = namer(f"{value.name}_barrier"), namer(f"{value.name}_behind_barrier")
    barrier = new_node("Max", [value, low], name=name, outputs=[output])
    made = barrier.outputs[0]
    made.type, made.shape = value.type, value.shape
    for use in value.uses():
        if use.node is not barrier:
            use.node.replace_input_with(use.idx, made)
    insert_after_value(value, [barrier], owner(value))
