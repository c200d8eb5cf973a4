"""Which operator replaces a node with run-time quantized activations or with a weight in blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx_ir as ir

from qtool.graph.view import View, float_constant, is_op, is_vector, sole_consumer
from qtool.plan.edits import EditKind, GraphEdit
from qtool.plan.model import Kind, Site
from qtool.plan.weights import added_bias
from qtool.tables.forms import Form
from qtool.tables.operators import WRITTEN_AS, Operator
from qtool.tables.targets import Target


def operators(
    view: View, forms: Mapping[str, Form], sites: Iterable[Site], target: Target
) -> dict[str, Operator]:
    """Return the operator of each node that has its own: node name -> operator, in the order of `forms`.

    onnxruntime has products that quantize their activation themselves. Where several nodes read the same
    activation, it is quantized once, and each product reads the integers. Other runtimes get ONNX's own
    MatMulInteger.

    Args:
        view: of the prepared model.
        forms: node -> its form. The Add of a bias that a product adds itself has the product's form.
        sites: of the draft.
        target: the runtime that the model is for.
    """
    readers = {use: len(s.uses or ()) for s in sites if s.kind is Kind.RUNTIME for use in s.uses or ()}
    found: dict[str, Operator] = {}
    for name, form in forms.items():
        able = WRITTEN_AS.get(form, {}).get(view.node_by_name[name].op_type, frozenset())
        if len(able) == 1:
            found[name] = next(iter(able))
        elif able:
            found[name] = _product(readers.get((name, 0), 1), target)
    return found


def _product(readers: int, target: Target) -> Operator:
    if not target.onnxruntime:
        return Operator.MATMUL_INTEGER
    return Operator.MATMUL_INTEGER_TO_FLOAT if readers > 1 else Operator.DYNAMIC_QUANTIZE_MATMUL


def sums(view: View, chosen: Mapping[str, Operator], split: Collection[str]) -> Iterator[GraphEdit]:
    """Yield the Adds behind a MatMulInteger that must become a Sum.

    onnxruntime (1.31) fuses the product with any constant vector that is added to it. Where the vector is no
    bias of the product, axes of length 1 that the product lacks are lost, and another length fails.

    Args:
        view: of the prepared model.
        chosen: node -> its operator.
        split: activations whose outlier columns get a product of their own: a Sum stands there already.
    """
    for name in (n for n, operator in chosen.items() if operator is Operator.MATMUL_INTEGER):
        node = view.node_by_name[name]
        add = sole_consumer(node.outputs[0])
        if add is None or not is_op(add, "Add") or added_bias(node) is not None or _is_split(node, split):
            continue
        arrays = [a for v in add.inputs if (a := float_constant(v)) is not None]
        if any(a.size > 1 and is_vector(a, a.size) for a in arrays):
            index = 0 if add.inputs[0] is node.outputs[0] else 1
            yield GraphEdit(EditKind.SUM, node.outputs[0].name or "", ((add.name or "", index),))


def _is_split(node: ir.Node, split: Collection[str]) -> bool:
    return any(v is not None and v.name in split for v in node.inputs)
