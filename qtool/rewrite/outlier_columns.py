"""Write the float product of outlier columns C beside the int8 product: x W = x' W' + x[C] W[C]."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, owner, take_over
from qtool.graph.view import View
from qtool.plan.model import Kind, Plan, Site
from qtool.plan.outlier_columns import result_node
from qtool.rewrite.writer import float_array


def split_outlier_columns(model: ir.Model, plan: Plan) -> None:
    """Add the float products of a plan to a clone of the prepared model, before anything is quantized.

    The model computes the same as before, in float. The rows C of W become zeros. Where the scale is found at
    run time, the columns C of x become zeros, too; with calibrated scales they saturate, times zero.

    A Sum adds the products: of a MatMul and an Add of two activations, onnxruntime (1.31) makes a Gemm.
    """
    view, namer = View(model), Namer(model)
    for site in plan.sites:
        outliers = plan.outlier_columns.get(site.value)
        if outliers is None or site.kind not in (Kind.ACTIVATION, Kind.RUNTIME):
            continue
        value = view.values[site.value]
        graph = owner(value)
        columns = np.asarray(outliers.columns, np.int64)
        indices = add_initializer(graph, namer(f"{site.value}_columns"), columns)
        picked = new_node(
            "Gather",
            [value, indices],
            name=namer(f"{site.value}_Gather"),
            outputs=[namer(f"{site.value}_outliers")],
            attributes={"axis": ir.AttrInt64("axis", -1)},
        )
        source = value
        added = [picked]
        if site.kind is Kind.RUNTIME:
            width = float_array(_weight(view, site)).shape[0]
            mask = np.ones(width, np.float32)
            mask[columns] = 0
            rest = add_initializer(graph, namer(f"{site.value}_rest_mask"), mask)
            name = namer(f"{site.value}_rest")
            added.append(new_node("Mul", [value, rest], name=name, outputs=[namer(f"{site.value}_rest")]))
            source = added[-1].outputs[0]
            source.type, source.shape = value.type, value.shape
        insert_after_value(value, added, graph)
        for name, index in site.uses or ():
            node = view.node_by_name[name]
            node.replace_input_with(index, source)
            _beside(view, namer, node, picked.outputs[0], columns)


def _weight(view: View, site: Site) -> ir.Value:
    name, _ = (site.uses or ())[0]
    weight = view.node_by_name[name].inputs[1]
    if weight is None:
        raise KeyError(f"'{name}' has no weight")
    return weight


def _beside(view: View, namer: Namer, node: ir.Node, picked: ir.Value, columns: np.ndarray) -> None:
    """Add the float product of the columns to one int8 product."""
    weight = node.inputs[1]
    if weight is None or not isinstance(node.graph, ir.Graph):
        raise KeyError(f"'{node.name}' has no weight")
    array = float_array(weight)
    rows = add_initializer(node.graph, namer(f"{weight.name}_outliers"), array[columns])
    others = array.copy()
    others[columns] = 0
    weight.const_value = ir.tensor(others, name=weight.name)
    small = new_node(
        "MatMul",
        [picked, rows],
        name=namer(f"{node.name}_outliers"),
        outputs=[namer(f"{node.outputs[0].name}_outliers")],
    )
    last = view.node_by_name[result_node(node.name or "", view)]
    product = last.outputs[0]
    node.graph.insert_after(last, [small])
    total = new_node(
        "Sum",
        [small.outputs[0], small.outputs[0]],
        name=namer(f"{node.name}_Sum"),
        outputs=[namer(f"{product.name}_whole")],
    )
    node.graph.insert_after(small, [total])
    take_over(product, total.outputs[0], namer)
    total.replace_input_with(
        1, product
    )  # after take_over, which lets all consumers of the product read the sum
